//! A look at the heads of HTTP/2 frames (RFC 9113 §4.1) as they pass, for floods of frames that ask for no work: h2
//! answers pings and settings one for one, and takes note of priorities, windows and empty frames without end.
//!
//! Such frames cost, and those that real work goes with earn. Nothing is looked at but the heads, nine bytes each, and
//! settings. What is wrong with their sizes is told here as well, since h2 calls every such error a `PROTOCOL_ERROR`.

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
const ACK: u8 = 0x1;
const FLOW_CONTROL_ERROR: u32 = 0x3;
const FRAME_SIZE_ERROR: u32 = 0x6;
/// What h2 says to a head whose continuations never end, and to nothing else.
const COMPRESSION_ERROR: u32 = 0x9;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// `SETTINGS_INITIAL_WINDOW_SIZE`, and the largest window there is (§6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
const LARGEST_WINDOW: u32 = (1 << 31) - 1;

/// What a request earns: priorities, windows and pings go with it.
const REQUEST_EARNS: i64 = 10;
/// What it costs to cancel one: a little more, so that requests are not made to be cancelled for ever.
const RESET_COSTS: i64 = 12;
/// What a frame of data that we send earns: two windows and a ping.
const SENT_EARNS: i64 = 3;
/// Bytes of such a frame that earn one more. A reader that opens its windows by just what it has read gets ever smaller
/// frames, and opens a window for each of them: it is slow, and wants its data.
const SENT_EARNS_BY: u32 = 256;
/// Less data than this, either way, is as good as none: whoever opens windows byte by byte wants work and no data.
const SCANT: u32 = 16;
/// What each second gives back.
const A_SECOND_EARNS: i64 = 10;
/// Nobody earns more than this.
const RICHEST: i64 = 1_000_000;

/// Bytes of a farewell that say who is served to the end, and why the rest is not (§6.8).
const REASON: usize = 8;

/// Follows frames from one head to the next.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the present payload that are still to come.
    left: u32,
    /// The head, and of a farewell the reason as well.
    head: [u8; HEAD + REASON],
    have: usize,
    /// The payload is one of settings, and the one that it has come to.
    in_settings: bool,
    setting: [u8; 6],
    set: usize,
    /// A setting asked for a window that there is not.
    too_wide: bool,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Why a farewell is said; 0 elsewhere.
    code: u32,
}

impl Frames {
    /// Bytes that are to be looked at of the frame whose head this is.
    fn wanted(&self) -> usize {
        let reason = self.have >= HEAD && self.head[3] == GOAWAY && self.length() as usize >= REASON;
        if reason { HEAD + REASON } else { HEAD }
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]])
    }

    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        loop {
            let skipped = bytes.len().min(self.left as usize);
            if self.in_settings {
                self.settings(&bytes[..skipped]);
            }
            self.left -= u32::try_from(skipped).unwrap_or(self.left);
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            while self.have < self.wanted() {
                if bytes.is_empty() {
                    return;
                }
                let taken = bytes.len().min(self.wanted() - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
                self.have += taken;
                bytes = &bytes[taken..];
            }
            let (head, length) = (self.head, self.length());
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let code = if self.have == HEAD { 0 } else { u32::from_be_bytes([head[13], head[14], head[15], head[16]]) };
            self.left = length - u32::try_from(self.have - HEAD).unwrap_or(0);
            self.have = 0;
            (self.in_settings, self.set) = (head[3] == SETTINGS, 0);
            each(Head { length, kind: head[3], flags: head[4], stream, code });
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for &byte in payload {
            self.setting[self.set] = byte;
            self.set += 1;
            if self.set == self.setting.len() {
                let [a, b, value @ ..] = self.setting;
                self.set = 0;
                self.too_wide |= u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE && u32::from_be_bytes(value) > LARGEST_WINDOW;
            }
        }
    }

    /// Whether a frame may begin here.
    fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// What a connection is ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    /// Too much of this.
    Flood(Flood),
    /// A frame that cannot be, by this code (§7).
    Broken(u32),
}

impl Offence {
    /// As the client is told it.
    fn code(self) -> u32 {
        match self {
            Self::Flood(_) => ENHANCE_YOUR_CALM,
            Self::Broken(code) => code,
        }
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
    /// What the client's last frame would be a flood of.
    last: Flood,
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
            last: Flood::Other,
        }
    }

    /// Bytes that the client has sent. What was wrong with them, if something was.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Option<Offence> {
        let (mut credit, mut last_stream, mut last, mut spent_on) = (self.credit, self.last_stream, self.last, None);
        let mut odd_size = false;
        self.incoming.feed(bytes, |head| {
            odd_size |= !has_its_size(head);
            let (worth, kind) = worth(head);
            last = kind;
            credit = (credit + worth).min(RICHEST);
            if credit < 0 && spent_on.is_none() {
                spent_on = Some(kind);
            }
            if head.kind == HEADERS {
                last_stream = head.stream.max(last_stream);
            }
        });
        (self.credit, self.last_stream, self.last) = (credit, last_stream, last);
        if odd_size {
            return Some(Offence::Broken(FRAME_SIZE_ERROR));
        }
        if self.incoming.too_wide {
            return Some(Offence::Broken(FLOW_CONTROL_ERROR));
        }
        let spent_on = spent_on?;
        self.give_back(self.looked.elapsed());
        (self.credit < 0).then_some(Offence::Flood(spent_on))
    }

    /// Time has passed since this was done last.
    fn give_back(&mut self, passed: Duration) {
        let seconds = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        if seconds > 0 {
            self.looked = Instant::now();
            self.credit = self.credit.saturating_add(seconds.saturating_mul(A_SECOND_EARNS)).min(self.allowance.max(self.credit));
        }
    }

    /// Bytes that were written to the client. Of what there was too much, if that is what they say: h2 has bounds of its
    /// own, and some of them are narrower.
    pub(super) fn sent(&mut self, bytes: &[u8]) -> Option<Flood> {
        let (mut earned, mut calmed) = (0, false);
        self.outgoing.feed(bytes, |head| {
            if head.kind == DATA && head.length >= SCANT {
                earned += SENT_EARNS + i64::from(head.length / SENT_EARNS_BY);
            }
            calmed |= head.kind == GOAWAY && matches!(head.code, ENHANCE_YOUR_CALM | COMPRESSION_ERROR);
        });
        self.credit = (self.credit + earned).min(RICHEST);
        calmed.then_some(self.last)
    }

    /// The last words to the client (§6.8), if it is in order to say anything right now.
    pub(super) fn farewell(&self, offence: Offence) -> Option<[u8; HEAD + 8]> {
        if !self.outgoing.at_boundary() {
            return None;
        }
        let mut frame = [0; HEAD + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&offence.code().to_be_bytes());
        Some(frame)
    }
}

/// Whether a frame is as long as its kind is (§6).
fn has_its_size(head: Head) -> bool {
    let Head { length, kind, flags, .. } = head;
    match kind {
        PRIORITY => length == 5,
        RST_STREAM | WINDOW_UPDATE => length == 4,
        SETTINGS if flags & ACK != 0 => length == 0,
        SETTINGS => length % 6 == 0,
        PING => length == 8,
        GOAWAY => length >= 8,
        _ => true,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD + length as usize, 0xff);
        frame
    }

    /// An account whose client has said its preface.
    fn begun(allowance: u32) -> Account {
        let mut account = Account::new(allowance);
        assert_eq!(account.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None);
        account
    }

    /// How many of these it takes, and what is said then.
    fn until_flood(account: &mut Account, piece: &[u8], most: usize) -> Option<(usize, Flood)> {
        (1..=most).find_map(|turn| match account.received(piece)? {
            Offence::Flood(flood) => Some((turn, flood)),
            Offence::Broken(code) => panic!("code {code} at {turn}"),
        })
    }

    #[test]
    fn every_kind_of_frame_for_nothing_has_an_end() {
        for (piece, turns, kind) in [
            (frame(PING, 0, 0, 8), 101, Flood::Ping),
            (frame(PING, 1, 0, 8), 101, Flood::Ping),
            (frame(SETTINGS, 0, 0, 0), 101, Flood::Settings),
            (frame(SETTINGS, 0, 0, 6), 101, Flood::Settings),
            (frame(PRIORITY, 0, 3, 5), 101, Flood::Priority),
            (frame(WINDOW_UPDATE, 0, 0, 4), 101, Flood::WindowUpdate),
            (frame(DATA, 0, 1, 0), 101, Flood::Empty),
            (frame(DATA, PADDED, 1, 200), 101, Flood::Empty),
            (frame(HEADERS, 4, 1, 0), 101, Flood::Empty),
            (frame(CONTINUATION, 0, 1, 0), 101, Flood::Continuation),
            (frame(CONTINUATION, 0, 1, 900), 101, Flood::Continuation),
            (frame(RST_STREAM, 0, 1, 4), 9, Flood::Reset),
            (frame(0xee, 0, 0, 100), 101, Flood::Other),
            // A request and its end, again and again.
            ([frame(HEADERS, 5, 1, 30), frame(RST_STREAM, 0, 1, 4)].concat(), 51, Flood::Reset),
        ] {
            assert_eq!(until_flood(&mut begun(100), &piece, 1000), Some((turns, kind)), "{kind:?}");
        }
    }

    #[test]
    fn frames_have_the_size_of_their_kind() {
        let setting = |id: u16, value: u32| [&frame(SETTINGS, 0, 0, 6)[..HEAD], &id.to_be_bytes(), &value.to_be_bytes()].concat();
        for (piece, code) in [
            (frame(PING, 0, 0, 7), Some(6)),
            (frame(PING, ACK, 0, 9), Some(6)),
            (frame(SETTINGS, 0, 0, 5), Some(6)),
            (frame(SETTINGS, ACK, 0, 6), Some(6)),
            (frame(WINDOW_UPDATE, 0, 1, 3), Some(6)),
            (frame(RST_STREAM, 0, 1, 5), Some(6)),
            (frame(PRIORITY, 0, 1, 4), Some(6)),
            (frame(GOAWAY, 0, 0, 7), Some(6)),
            (setting(4, 0x8000_0000), Some(3)),
            ([setting(1, 0x8000_0000), setting(4, 0x7fff_ffff), setting(5, 0xffff_ffff)].concat(), None),
            ([frame(GOAWAY, 0, 0, 8), frame(GOAWAY, 0, 0, 900), frame(0xee, 0, 0, 3), frame(SETTINGS, ACK, 0, 0)].concat(), None),
        ] {
            for cut in 1..=piece.len() {
                let mut account = begun(100);
                let seen: Vec<Offence> = piece.chunks(cut).filter_map(|bytes| account.received(bytes)).collect();
                assert_eq!(seen.first().copied(), code.map(Offence::Broken), "{piece:?} in pieces of {cut}");
            }
        }
        assert_eq!(begun(1).farewell(Offence::Broken(6)).unwrap()[HEAD + 4..], [0, 0, 0, 6]);
    }

    #[test]
    fn honest_clients_never_come_to_an_end() {
        let many = 100_000;
        // Calls as gRPC makes them: a request, a message, its windows, a ping.
        let call = [
            frame(HEADERS, 4, 1, 60),
            frame(DATA, 1, 1, 20),
            frame(WINDOW_UPDATE, 0, 0, 4),
            frame(WINDOW_UPDATE, 0, 1, 4),
            frame(PING, 0, 0, 8),
        ];
        assert_eq!(until_flood(&mut begun(100), &call.concat(), many), None);
        // Browsers: priorities with each request, one in three cancelled.
        let page = [frame(HEADERS, 5, 1, 300), frame(0x10, 0, 0, 7), frame(PRIORITY, 0, 1, 5)].concat();
        let page = [&page[..], &page, &page, &frame(RST_STREAM, 0, 1, 4)].concat();
        assert_eq!(until_flood(&mut begun(100), &page, many), None);
        // An upload in small pieces.
        assert_eq!(until_flood(&mut begun(100), &frame(DATA, 0, 1, 1), many), None);
        // A download whose reader opens both windows for each piece, in bursts.
        let mut account = begun(100);
        account.received(&frame(HEADERS, 5, 1, 30));
        for _ in 0..many / 1000 {
            account.sent(&frame(DATA, 0, 1, 16_384).repeat(1000));
            let windows = [frame(WINDOW_UPDATE, 0, 0, 4), frame(WINDOW_UPDATE, 0, 1, 4)].concat().repeat(1000);
            assert_eq!(account.received(&windows), None);
        }
    }

    #[test]
    fn a_reader_of_crumbs_gets_to_the_end_of_a_large_answer() {
        let mut account = begun(100);
        let windows = [frame(WINDOW_UPDATE, 0, 0, 4), frame(WINDOW_UPDATE, 0, 1, 4)].concat();
        for _ in 0..500 {
            account.sent(&frame(DATA, 0, 1, 16_384));
            for _ in 0..20 {
                account.sent(&frame(DATA, 0, 1, 9));
                assert_eq!(account.received(&windows), None);
            }
        }
    }

    #[test]
    fn a_ping_every_second_for_an_hour_is_nothing() {
        let mut account = begun(100);
        let ping = frame(PING, 0, 0, 8);
        for _ in 0..3600 {
            account.looked = account.looked.checked_sub(Duration::from_secs(1)).unwrap();
            assert_eq!(account.received(&ping), None);
        }
        // Time alone does not make anybody rich.
        account.looked = account.looked.checked_sub(Duration::from_hours(10)).unwrap();
        assert!(until_flood(&mut account, &ping, 100 + 100 + 1).is_some());
    }

    #[test]
    fn windows_that_are_opened_byte_by_byte_earn_nothing() {
        let mut account = begun(100);
        let ended = (1..1000).find(|_| {
            account.sent(&frame(DATA, 0, 1, 1));
            account.received(&frame(WINDOW_UPDATE, 0, 1, 4)).is_some()
        });
        assert_eq!(ended, Some(101));
    }

    #[test]
    fn a_farewell_is_a_frame_and_breaks_into_none() {
        let mut account = begun(100);
        account.received(&frame(HEADERS, 5, 0x0102_0304, 30));
        let farewell = account.farewell(Offence::Flood(Flood::Ping)).unwrap();
        assert_eq!(farewell, [0, 0, 8, 7, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0xb]);
        account.sent(&frame(DATA, 0, 1, 100)[..50]);
        assert_eq!(account.farewell(Offence::Flood(Flood::Ping)), None);
        account.sent(&frame(DATA, 0, 1, 100)[50..]);
        account.sent(&[0]);
        assert_eq!(account.farewell(Offence::Flood(Flood::Ping)), None);
    }

    #[test]
    fn what_h2_ends_by_itself_is_told_by_its_last_frame() {
        let farewell = |code: u8| [&frame(GOAWAY, 0, 0, 19)[..HEAD], &[0, 0, 0, 1, 0, 0, 0, code], b"of whatever"].concat();
        for cut in 1..HEAD + REASON {
            let mut account = begun(100);
            account.received(&frame(CONTINUATION, 0, 1, 900));
            account.received(&frame(DATA, 0, 1, 0));
            let calm = farewell(11);
            assert_eq!(account.sent(&farewell(0)), None, "a proper end");
            assert_eq!(account.sent(&farewell(1)), None, "a mistake");
            assert_eq!(account.sent(&farewell(9)), Some(Flood::Empty), "continuations without end");
            let seen = [account.sent(&calm[..cut]), account.sent(&calm[cut..])];
            assert_eq!(seen, [None, Some(Flood::Empty)], "{cut}");
            assert_eq!(account.sent(&frame(DATA, 0, 1, 11)), None, "once");
        }
        // One that says no reason.
        assert_eq!(begun(100).sent(&frame(GOAWAY, 0, 0, 4)), None);
    }

    proptest! {
        /// However the bytes are cut, the same frames are seen.
        #[test]
        fn cuts_do_not_matter(frames in prop::collection::vec((0_u8..12, 0_u8..16, 0_u32..300), 0..60), piece in 1_usize..40) {
            let size = |kind, flags, length| match kind {
                PRIORITY => 5,
                RST_STREAM | WINDOW_UPDATE => 4,
                SETTINGS => if flags & ACK == 0 { 6 } else { 0 },
                PING => 8,
                GOAWAY => 8 + length,
                _ => length,
            };
            let bytes: Vec<u8> = frames.iter().flat_map(|&(kind, flags, length)| frame(kind, flags, 1, size(kind, flags, length))).collect();
            let (mut whole, mut cut) = (begun(100), begun(100));
            let seen = whole.received(&bytes);
            let mut seen_cut = None;
            for piece in bytes.chunks(piece) {
                seen_cut = seen_cut.or(cut.received(piece));
            }
            prop_assert_eq!(whole.credit, cut.credit);
            // Cut in pieces, it may be seen before something is earned again; never the other way round.
            prop_assert!(seen.is_none() || seen_cut == seen);
        }
    }
}
