//! A look at the heads of HTTP/2 frames (RFC 9113 §4.1) as they pass, for floods of frames that ask for no work: h2
//! answers pings and settings one for one, and takes note of priorities, windows and empty frames without end.
//!
//! Such frames cost, and those that real work goes with earn. Nothing is looked at but the heads, nine bytes each.

use std::time::{Duration, Instant};

use crate::metrics::Flood;

/// Bytes of the client's preface (§3.4).
const PREFACE: u32 = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What a request earns: priorities, windows and pings go with it.
const REQUEST_EARNS: i64 = 10;
/// What it costs to cancel one: a little more, so that requests are not made to be cancelled for ever.
const RESET_COSTS: i64 = 12;
/// What a frame of data that we send earns: two windows and a ping.
const SENT_EARNS: i64 = 3;
/// Less data than this, either way, is as good as none: whoever opens windows byte by byte wants work and no data.
const SCANT: u32 = 16;
/// What each second gives back.
const A_SECOND_EARNS: i64 = 10;
/// Nobody earns more than this.
const RICHEST: i64 = 1_000_000;

/// Follows frames from one head to the next.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the present payload that are still to come.
    left: u32,
    head: [u8; HEAD],
    have: usize,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let skipped = bytes.len().min(self.left as usize);
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEAD {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, flags, s, t, u, v] = self.head;
            self.left = u32::from_be_bytes([0, a, b, c]);
            each(Head { length: self.left, kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]) });
        }
    }

    /// Whether a frame may begin here.
    fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// Keeps the account of one connection.
#[derive(Debug)]
pub(super) struct Account {
    incoming: Frames,
    outgoing: Frames,
    credit: i64,
    /// What it begins with, and what time alone brings it back to.
    allowance: i64,
    looked: Instant,
    last_stream: u32,
}

impl Account {
    /// With this many frames for nothing.
    pub(super) fn new(allowance: u32) -> Self {
        Self {
            incoming: Frames { left: PREFACE, ..Frames::default() },
            outgoing: Frames::default(),
            credit: allowance.into(),
            allowance: allowance.into(),
            looked: Instant::now(),
            last_stream: 0,
        }
    }

    /// Bytes that the client has sent. Of what there was too much, if there was.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Option<Flood> {
        let (mut credit, mut last_stream, mut spent_on) = (self.credit, self.last_stream, None);
        self.incoming.feed(bytes, |head| {
            let (worth, kind) = worth(head);
            credit = (credit + worth).min(RICHEST);
            if credit < 0 && spent_on.is_none() {
                spent_on = Some(kind);
            }
            if head.kind == HEADERS {
                last_stream = head.stream.max(last_stream);
            }
        });
        (self.credit, self.last_stream) = (credit, last_stream);
        let spent_on = spent_on?;
        self.give_back(self.looked.elapsed());
        (self.credit < 0).then_some(spent_on)
    }

    /// Time has passed since this was done last.
    fn give_back(&mut self, passed: Duration) {
        let seconds = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        if seconds > 0 {
            self.looked = Instant::now();
            self.credit = self.credit.saturating_add(seconds.saturating_mul(A_SECOND_EARNS)).min(self.allowance.max(self.credit));
        }
    }

    /// Bytes that were written to the client.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let mut earned = 0;
        self.outgoing.feed(bytes, |head| {
            if head.kind == DATA && head.length >= SCANT {
                earned += SENT_EARNS;
            }
        });
        self.credit = (self.credit + earned).min(RICHEST);
    }

    /// The last words to the client (§6.8), if it is in order to say anything right now.
    pub(super) fn farewell(&self) -> Option<[u8; HEAD + 8]> {
        if !self.outgoing.at_boundary() {
            return None;
        }
        let mut frame = [0; HEAD + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        Some(frame)
    }
}

/// What a client's frame earns, or costs.
fn worth(head: Head) -> (i64, Flood) {
    let Head { length, kind, flags, .. } = head;
    // What is padded may be nothing but padding.
    let scant = length == 0 || (flags & PADDED != 0 && length <= 256);
    match kind {
        DATA if scant && flags & END_STREAM == 0 => (-1, Flood::Empty),
        DATA => (i64::from(length >= 256), Flood::Empty),
        HEADERS if length == 0 => (-1, Flood::Empty),
        HEADERS => (REQUEST_EARNS, Flood::Empty),
        CONTINUATION => (-1, Flood::Continuation),
        RST_STREAM => (-RESET_COSTS, Flood::Reset),
        PRIORITY => (-1, Flood::Priority),
        SETTINGS => (-1, Flood::Settings),
        PING => (-1, Flood::Ping),
        WINDOW_UPDATE => (-1, Flood::WindowUpdate),
        _ => (-1, Flood::Other),
    }
}
