//! The messages of one direction of a WebSocket, read as they pass (RFC 6455 §5): in whatever pieces the bytes come, in
//! however many frames, with a mask or without, compressed (RFC 7692) or not.
//!
//! Nothing is kept between two messages. One that comes whole, as nearly all do, is never copied to the heap.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Decompress, FlushDecompress, Status};

thread_local! {
    /// Where messages are unmasked to and unpacked into, by whoever reads one at the moment.
    static ROOM: RefCell<Room> = const { RefCell::new(Room { plain: Vec::new(), unpacked: Vec::new(), inflater: None }) };
}

struct Room {
    plain: Vec<u8>,
    unpacked: Vec<u8>,
    /// Made for the first message that is compressed: it takes 47 KB.
    inflater: Option<Decompress>,
}

/// The longest head of a frame.
const LONGEST_HEAD: usize = 14;
/// What ends a compressed message, and is left out of it (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// How many times its size a message may come to when it is unpacked. Those of clients come to two or three times; a
/// stream of denser ones would keep a worker busy with nothing else.
const DENSEST: usize = 32;
/// A short message may be dense: it is little work all the same.
const SHORT: usize = 1024;
/// What it takes to begin to unpack, in bytes that could be read in that time.
const BEGINNING: usize = 512;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A message, or why it was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'m> {
    /// Text, or binary data: servers read either as text.
    Whole(&'m [u8]),
    /// It is longer than the limit.
    TooLong,
    /// It cannot be unpacked by itself: its sender was told to compress it so.
    Packed,
    /// It comes to so much when it is unpacked that it is not worth the work.
    Dense,
    /// It came in pieces, and there was no memory for them.
    NoRoom,
}

/// Memory for messages that come in pieces: what is left of it, for all WebSockets together. Nearly all messages come
/// whole, so that it is hardly ever asked.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<AtomicUsize>);

impl Memory {
    /// This many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Bytes that are left.
    #[cfg(test)]
    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Pieces of a message.
#[derive(Debug)]
struct Pieces {
    bytes: Vec<u8>,
    memory: Memory,
    /// Bytes that were taken of it.
    taken: usize,
}

impl Pieces {
    /// Makes room for this many bytes more, of a message of up to `limit` bytes. False if there is no memory for them.
    fn make_room(&mut self, more: usize, limit: usize) -> bool {
        let needs = self.bytes.len() + more;
        if needs <= self.taken {
            return true;
        }
        let wanted = needs.max((2 * self.taken).min(limit));
        if !self.memory.take(wanted - self.taken) {
            return false;
        }
        self.taken = wanted;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        true
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.memory.give_back(self.taken);
    }
}

/// Reads messages out of the bytes of one direction.
#[derive(Debug)]
pub(crate) struct Messages {
    /// Of a message, unpacked.
    limit: usize,
    /// permessage-deflate was agreed upon.
    deflate: bool,
    closed: bool,
    /// The part of a frame's head that has come.
    head: [u8; LONGEST_HEAD],
    have: u8,
    frame: Option<Frame>,
    /// The data message that is under way.
    under_way: Option<UnderWay>,
    memory: Memory,
    /// Bytes that were read since it was asked for, about.
    work: usize,
}

/// A frame whose head has come.
#[derive(Clone, Copy, Debug)]
struct Frame {
    first: u8,
    mask: [u8; 4],
    /// Bytes of the payload that have come.
    passed: u64,
    length: u64,
}

#[derive(Debug)]
enum UnderWay {
    Kept { compressed: bool, pieces: Pieces },
    TooLong,
    Packed,
    NoRoom,
}

impl Frame {
    /// The frame that begins here, and how long its head is; `None` while there is too little of it.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, second, ..] = *bytes else { return None };
        let (length, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        if second & 0x80 == 0 {
            return Some((Self { first, mask: [0; 4], passed: 0, length }, at));
        }
        let mask = *bytes.get(at..)?.first_chunk()?;
        Some((Self { first, mask, passed: 0, length }, at + 4))
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    /// The bit that permessage-deflate takes (RFC 7692 §6).
    fn is_compressed(&self) -> bool {
        self.first & 0x40 != 0
    }

    fn begins_message(&self) -> bool {
        matches!(self.opcode(), TEXT | BINARY)
    }
}

impl Messages {
    /// Reads messages of up to `limit` bytes. `deflate` says that permessage-deflate was agreed upon, without context
    /// takeover in this direction. Those that come in pieces are kept in `memory`.
    pub(crate) fn new(deflate: bool, limit: usize, memory: Memory) -> Self {
        Self { limit, deflate, closed: false, head: [0; LONGEST_HEAD], have: 0, frame: None, under_way: None, memory, work: 0 }
    }

    /// How much work it was since this was asked last: bytes that were read, unpacked.
    pub(crate) fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    /// Whether a close frame has begun.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes on the heap.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn kept(&self) -> usize {
        match &self.under_way {
            Some(UnderWay::Kept { pieces, .. }) => pieces.bytes.capacity(),
            _ => 0,
        }
    }

    /// Takes what passes, and tells of each message that ends in it.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Message<'_>)) {
        while !bytes.is_empty() {
            if let Some(frame) = &mut self.frame {
                let left = usize::try_from(frame.length - frame.passed).unwrap_or(usize::MAX);
                let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                let began = *frame;
                frame.passed += piece.len() as u64;
                self.keep(&began, piece);
                bytes = rest;
                if began.passed + piece.len() as u64 == began.length {
                    self.end_frame(&mut tell);
                }
                continue;
            }
            let (frame, size) = if self.have == 0 {
                match Frame::read(bytes) {
                    Some(read) => read,
                    None => return self.begin_head(bytes),
                }
            } else {
                self.head[usize::from(self.have)] = bytes[0];
                self.have += 1;
                let Some((frame, _)) = Frame::read(&self.head[..usize::from(self.have)]) else {
                    bytes = &bytes[1..];
                    continue;
                };
                (frame, 1)
            };
            self.have = 0;
            bytes = &bytes[size..];
            let here = usize::try_from(frame.length).ok().filter(|length| *length <= bytes.len() && *length <= self.limit);
            if let (Some(length), true, true) = (here, frame.is_final(), frame.begins_message()) {
                self.under_way = None;
                self.tell_whole(&frame, &bytes[..length], &mut tell);
                bytes = &bytes[length..];
                continue;
            }
            self.begin(frame);
            if frame.length == 0 {
                self.end_frame(&mut tell);
            }
        }
    }

    fn begin_head(&mut self, bytes: &[u8]) {
        self.head[..bytes.len()].copy_from_slice(bytes);
        self.have = u8::try_from(bytes.len()).expect("a head that is not whole has less than 14 bytes");
    }

    fn begin(&mut self, frame: Frame) {
        self.closed |= frame.opcode() == CLOSE;
        if frame.begins_message() {
            let compressed = frame.is_compressed();
            let readable = self.deflate || !compressed;
            let pieces = || Pieces { bytes: Vec::new(), memory: self.memory.clone(), taken: 0 };
            self.under_way = Some(if readable { UnderWay::Kept { compressed, pieces: pieces() } } else { UnderWay::Packed });
        }
        self.frame = Some(frame);
    }

    /// Keeps a piece of the message that is under way.
    fn keep(&mut self, frame: &Frame, piece: &[u8]) {
        let Some(UnderWay::Kept { pieces, .. }) = &mut self.under_way else { return };
        if !frame.begins_message() && frame.opcode() != CONTINUATION {
            return;
        }
        if frame.length - frame.passed > (self.limit - pieces.bytes.len()) as u64 {
            self.under_way = Some(UnderWay::TooLong);
        } else if pieces.make_room(piece.len(), self.limit) {
            unmask(&mut pieces.bytes, piece, frame.mask, frame.passed);
        } else {
            self.under_way = Some(UnderWay::NoRoom);
        }
    }

    fn end_frame(&mut self, tell: &mut impl FnMut(Message<'_>)) {
        let Some(frame) = self.frame.take() else { return };
        let is_data = frame.begins_message() || frame.opcode() == CONTINUATION;
        if !is_data || !frame.is_final() {
            return;
        }
        match self.under_way.take() {
            None => {}
            Some(UnderWay::TooLong) => tell(Message::TooLong),
            Some(UnderWay::Packed) => tell(Message::Packed),
            Some(UnderWay::NoRoom) => tell(Message::NoRoom),
            Some(UnderWay::Kept { compressed: false, pieces }) => {
                self.work += pieces.bytes.len();
                tell(Message::Whole(&pieces.bytes));
            }
            Some(UnderWay::Kept { compressed: true, pieces }) => ROOM.with_borrow_mut(|room| {
                let (message, work) = unpack(&pieces.bytes, &mut room.inflater, &mut room.unpacked, self.limit);
                self.work += work;
                tell(message);
            }),
        }
    }

    /// Tells of a message that is one frame and whole in memory.
    fn tell_whole(&mut self, frame: &Frame, payload: &[u8], tell: &mut impl FnMut(Message<'_>)) {
        if frame.is_compressed() && !self.deflate {
            return tell(Message::Packed);
        }
        ROOM.with_borrow_mut(|room| {
            let Room { plain, unpacked, inflater } = room;
            plain.clear();
            unmask(plain, payload, frame.mask, 0);
            if frame.is_compressed() {
                let (message, work) = unpack(plain, inflater, unpacked, self.limit);
                self.work += work;
                tell(message);
            } else {
                self.work += plain.len();
                tell(Message::Whole(plain));
            }
        });
    }
}

/// Appends a piece of a payload without its mask; `at` is where it stands in the payload.
fn unmask(to: &mut Vec<u8>, piece: &[u8], mut mask: [u8; 4], at: u64) {
    mask.rotate_left(usize::from((at & 3) as u8));
    let start = to.len();
    to.extend_from_slice(piece);
    let narrow = u64::from(u32::from_ne_bytes(mask));
    let wide = narrow << 32 | narrow;
    let (chunks, rest) = to[start..].as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Unpacks a message that was compressed by itself (RFC 7692 §7.2.2), and tells how much work that was.
fn unpack<'m>(packed: &[u8], inflater: &mut Option<Decompress>, to: &'m mut Vec<u8>, limit: usize) -> (Message<'m>, usize) {
    let inflater = inflater.get_or_insert_with(|| Decompress::new(false));
    inflater.reset(false);
    let worth_it = packed.len().saturating_mul(DENSEST).saturating_add(SHORT);
    let most = limit.min(worth_it);
    if to.len() <= limit {
        // One byte more than the limit tells that there is more.
        to.resize(limit + 1, 0);
    }
    let filled = inflate(packed, inflater, &mut to[..=most]);
    let work = BEGINNING + usize::try_from(inflater.total_out()).expect("not more than there was room");
    let message = match filled {
        None => Message::Packed,
        Some(filled) if filled <= most => Message::Whole(&to[..filled]),
        Some(_) if most == limit => Message::TooLong,
        Some(_) => Message::Dense,
    };
    (message, work)
}

/// How much of `to` the message takes, which is all of it when there is more; `None` where it cannot be unpacked.
fn inflate(packed: &[u8], inflater: &mut Decompress, to: &mut [u8]) -> Option<usize> {
    let mut filled = 0;
    for piece in [packed, &TAIL] {
        let mut taken = 0;
        while taken < piece.len() && filled < to.len() {
            let (before_in, before_out) = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress(&piece[taken..], &mut to[filled..], FlushDecompress::Sync).ok()?;
            let (read, made) = (inflater.total_in() - before_in, inflater.total_out() - before_out);
            taken += usize::try_from(read).expect("not more than there was");
            filled += usize::try_from(made).expect("not more than there was room");
            if status == Status::StreamEnd {
                return Some(filled);
            }
            if read == 0 && made == 0 {
                return None;
            }
        }
    }
    Some(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1_000;

    fn plenty() -> Memory {
        Memory::of(usize::MAX)
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.flush().unwrap();
        let mut out = encoder.get_ref().clone();
        assert!(out.ends_with(&TAIL), "{out:?}");
        out.truncate(out.len() - TAIL.len());
        out
    }

    fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut frame = vec![first];
        match payload.len() {
            0..=125 => frame.push(bit | u8::try_from(payload.len()).unwrap()),
            126..=0xffff => {
                frame.push(bit | 0x7e);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(bit | 0x7f);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        let mask = match mask {
            Some(mask) => {
                frame.extend(mask);
                mask
            }
            None => [0; 4],
        };
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// A message as a client may send it: in how many frames, compressed, with pings in between.
    #[derive(Clone, Debug)]
    struct Sent {
        text: Vec<u8>,
        compressed: bool,
        cuts: Vec<usize>,
        mask: Option<[u8; 4]>,
        pings: bool,
    }

    impl Sent {
        fn bytes(&self) -> Vec<u8> {
            let payload = if self.compressed { packed(&self.text) } else { self.text.clone() };
            let mut ends: Vec<usize> = self.cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
            ends.extend([payload.len()]);
            ends.sort_unstable();
            let (mut out, mut at) = (Vec::new(), 0);
            for (index, end) in ends.iter().enumerate() {
                let first = if index == 0 { TEXT | if self.compressed { 0x40 } else { 0 } } else { CONTINUATION };
                let last = if index + 1 == ends.len() { 0x80 } else { 0 };
                out.extend(frame(first | last, self.mask, &payload[at..*end]));
                at = *end;
                if self.pings && index + 1 < ends.len() {
                    out.extend(frame(0x89, self.mask, b"ping"));
                }
            }
            out
        }

        fn is_read(&self) -> bool {
            self.text.len() <= LIMIT && (!self.compressed || packed(&self.text).len() <= LIMIT)
        }
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let text = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (any::<u8>(), 0..LIMIT * 3).prop_map(|(byte, length)| vec![byte; length]),
            prop::collection::vec(any::<u8>(), LIMIT - 3..LIMIT + 3),
        ];
        (text, any::<bool>(), prop::collection::vec(any::<usize>(), 0..4), any::<Option<[u8; 4]>>(), any::<bool>())
            .prop_map(|(text, compressed, cuts, mask, pings)| Sent { text, compressed, cuts, mask, pings })
    }

    fn read(messages: &mut Messages, bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut read = Vec::new();
        messages.feed(bytes, |message| {
            read.push(match message {
                Message::Whole(text) => Some(text.to_vec()),
                Message::TooLong => None,
                Message::Packed | Message::Dense | Message::NoRoom => panic!("each message was compressed by itself: {message:?}"),
            });
        });
        read
    }

    proptest! {
        #[test]
        fn what_was_sent_is_read_in_any_cut(sent in prop::collection::vec(sent(), 0..5), cuts in prop::collection::vec(1..700usize, 1..20)) {
            let stream: Vec<u8> = sent.iter().flat_map(Sent::bytes).collect();
            let expected: Vec<Option<Vec<u8>>> = sent.iter().map(|sent| sent.is_read().then(|| sent.text.clone())).collect();
            let (mut messages, mut got, mut rest) = (Messages::new(true, LIMIT, plenty()), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                got.extend(read(&mut messages, piece));
                prop_assert!(messages.kept() <= 2 * LIMIT);
                if behind.is_empty() { break }
                rest = behind;
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(messages.kept(), 0, "nothing is kept between messages");
            prop_assert!(!messages.is_closed());
        }

        #[test]
        fn nonsense_is_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20), deflate in any::<bool>()) {
            let mut messages = Messages::new(deflate, LIMIT, plenty());
            for piece in pieces {
                messages.feed(&piece, |_| {});
                prop_assert!(messages.kept() <= 2 * LIMIT);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let text = b"the same words, the same words";
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        let mut both = [Vec::new(), Vec::new()];
        for one in &mut both {
            encoder.get_mut().clear();
            encoder.write_all(text).unwrap();
            encoder.flush().unwrap();
            *one = encoder.get_ref()[..encoder.get_ref().len() - 4].to_vec();
        }
        // The second refers to the first: a client that was told not to.
        let stream = both.iter().flat_map(|packed| frame(0xc1, Some([1, 2, 3, 4]), packed)).collect::<Vec<_>>();
        let mut seen = Vec::new();
        Messages::new(true, LIMIT, plenty()).feed(&stream, |message| seen.push(message == Message::Whole(text)));
        assert_eq!(seen, [true, false]);
        // Compressed though that was not agreed upon; a bomb; a frame that never ends.
        for (deflate, stream, expected) in [
            (false, frame(0xc1, None, &both[0]), Some(Message::Packed)),
            (false, [frame(0x41, None, &both[0]), frame(0x80, None, b"")].concat(), Some(Message::Packed)),
            (true, frame(0xc1, None, &packed(&vec![b' '; 200_000])), Some(Message::TooLong)),
            (true, frame(0xc1, None, b"\xff\xff\xff\xff"), Some(Message::Packed)),
            (true, frame(0xc1, None, b""), Some(Message::Whole(b""))),
            (false, frame(0x81, None, &vec![b' '; LIMIT + 1]), Some(Message::TooLong)),
            (false, vec![0x81, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, b'x'], None),
            (false, frame(0x80, None, b"a continuation of nothing"), None),
            (false, frame(0x83, None, b"a reserved kind"), None),
        ] {
            let (mut seen, mut messages) = (Vec::new(), Messages::new(deflate, LIMIT, plenty()));
            for byte in &stream {
                messages.feed(std::slice::from_ref(byte), |message| seen.push(format!("{message:?}")));
                assert!(messages.kept() <= 2 * LIMIT);
            }
            assert_eq!(seen, expected.map(|expected| format!("{expected:?}")).into_iter().collect::<Vec<_>>());
            let mut whole = Vec::new();
            Messages::new(deflate, LIMIT, plenty()).feed(&stream, |message| whole.push(format!("{message:?}")));
            assert_eq!(whole, seen);
        }
    }

    #[test]
    fn what_unpacks_is_made_when_something_is_packed() {
        // The room is a thread's own.
        std::thread::spawn(|| {
            let made = || ROOM.with_borrow(|room| room.inflater.is_some());
            let mut messages = Messages::new(true, LIMIT, plenty());
            for (frame, expected) in [(frame(0x81, None, b"plain"), false), (frame(0xc1, None, &packed(b"packed")), true)] {
                let mut read = 0;
                messages.feed(&frame, |_| read += 1);
                assert_eq!((read, made()), (1, expected));
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_dense_message_is_not_worth_the_work() {
        // A megabyte of blanks in a kilobyte, again and again, and messages of next to nothing.
        let mut messages = Messages::new(true, 1 << 20, plenty());
        let mut told = Vec::new();
        for (text, expected) in [(20_000, "Dense"), (1 << 20, "Dense"), (900, "Whole")] {
            let stream = frame(0xc1, Some([1, 2, 3, 4]), &packed(&vec![b' '; text])).repeat(3);
            for piece in [stream.len(), 7] {
                told.clear();
                for bytes in stream.chunks(piece) {
                    messages.feed(bytes, |message| told.push(format!("{message:?}")));
                }
                assert_eq!(told.len(), 3);
                assert!(told.iter().all(|message| message.starts_with(expected)), "{text}: {}", &told[0][..20.min(told[0].len())]);
                let most = 3 * (BEGINNING + SHORT + 1 + DENSEST * stream.len() / 3);
                let work = messages.take_work();
                assert!((3 * BEGINNING..=most).contains(&work), "{text}: {work} of {most}");
            }
        }
        messages.feed(&frame(0xc1, None, b"\x02").repeat(100), |_| {});
        assert!(messages.take_work() >= 100 * BEGINNING);
        assert_eq!(messages.take_work(), 0);
        // What people write comes to less.
        let text = r#"{"msg":"method","method":"login","params":[{"resume":"t"}],"id":"1"}"#.repeat(14);
        let stream = frame(0xc1, None, &packed(text.as_bytes()));
        let mut seen = 0;
        messages.feed(&stream, |message| seen += usize::from(message == Message::Whole(text.as_bytes())));
        assert_eq!(seen, 1);
    }

    #[test]
    fn memory_is_shared_and_given_back() {
        let memory = Memory::of(3 * LIMIT);
        let half = |first: u8| frame(first, Some([1, 2, 3, 4]), &[b'x'; LIMIT])[..LIMIT].to_vec();
        for first in [0x81, 0x41] {
            let mut sockets: Vec<Messages> = (0..5).map(|_| Messages::new(true, LIMIT, memory.clone())).collect();
            for socket in &mut sockets {
                // Byte by byte, so that what is kept has to grow.
                for byte in half(first) {
                    socket.feed(&[byte], |_| panic!("there is no whole message yet"));
                }
            }
            assert!(memory.left() <= LIMIT, "{}", memory.left());
            assert_eq!(sockets.iter().filter(|socket| socket.kept() > 0).count(), 3);
            let rest = frame(first, Some([1, 2, 3, 4]), &[b'x'; LIMIT])[LIMIT..].to_vec();
            let mut told = Vec::new();
            for socket in &mut sockets {
                socket.feed(&rest, |message| told.push(message == Message::NoRoom));
                // The end of a message in pieces.
                socket.feed(&frame(0x80, None, b""), |message| told.push(message == Message::NoRoom));
            }
            assert_eq!(told.iter().filter(|no_room| **no_room).count(), 2, "{told:?}");
            assert_eq!(memory.left(), 3 * LIMIT);
            // Another message can be read.
            let mut seen = 0;
            sockets[4].feed(&half(0x81), |_| {});
            sockets[4].feed(&rest, |message| seen += usize::from(matches!(message, Message::Whole(_))));
            assert_eq!(seen, 1);
            sockets[3].feed(&half(0x81), |_| {});
            drop(sockets);
            assert_eq!(memory.left(), 3 * LIMIT, "also of sockets that are gone");
        }
    }

    #[test]
    fn a_close_frame_is_noticed_in_any_cut() {
        let stream = frame(0x88, Some([9, 8, 7, 6]), &[0x03, 0xe9]);
        for cut in 0..=stream.len() {
            let mut messages = Messages::new(false, LIMIT, plenty());
            messages.feed(&stream[..cut], |_| {});
            messages.feed(&stream[cut..], |_| {});
            assert!(messages.is_closed(), "{cut}");
        }
    }
}
