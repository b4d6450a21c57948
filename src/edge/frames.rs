//! Where the frames of a WebSocket begin and end (RFC 6455 §5.2). Only heads are looked at, nothing is
//! kept of what passes.

/// Follows one direction of a WebSocket, in whatever pieces it comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    at: At,
    /// A close frame has begun: no other frame may come behind it (§5.5.1).
    closed: bool,
    /// A message has begun that goes on in further frames.
    in_message: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Between two frames.
    #[default]
    Boundary,
    /// Behind the first byte.
    Second,
    /// In an extended length.
    Length { missing: u8, value: u64, masked: bool },
    /// In the payload, which the masking key counts towards.
    Payload { left: u64 },
}

impl Frames {
    /// Whether another frame may begin here.
    pub(crate) fn at_boundary(&self) -> bool {
        self.at == At::Boundary
    }

    /// Whether another message may begin here: between the frames of one there is room for control frames alone
    /// (§5.4).
    pub(crate) fn at_message_boundary(&self) -> bool {
        self.at_boundary() && !self.in_message
    }

    /// Whether the side that speaks has said its last frame, or is saying it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes note of what passes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// Takes note of what passes up to the end of the frame that is under way; how much that is, if the
    /// frame ends within `bytes`.
    pub(crate) fn feed_to_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.step(&bytes[taken..]);
            if self.at_boundary() {
                return Some(taken);
            }
        }
        None
    }

    /// Takes a byte of a head, or of a payload as much as there is. `bytes` is not empty.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        match self.at {
            At::Boundary => {
                self.closed |= byte & 0x0f == 0x8;
                if byte & 0x08 == 0 {
                    self.in_message = byte & 0x80 == 0;
                }
                self.at = At::Second;
                1
            }
            At::Second => {
                let masked = byte & 0x80 != 0;
                self.at = match byte & 0x7f {
                    126 => At::Length { missing: 2, value: 0, masked },
                    127 => At::Length { missing: 8, value: 0, masked },
                    length => payload(u64::from(length), masked),
                };
                1
            }
            At::Length { missing, value, masked } => {
                let value = (value << 8) | u64::from(byte);
                self.at = if missing > 1 { At::Length { missing: missing - 1, value, masked } } else { payload(value, masked) };
                1
            }
            At::Payload { left } => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - here as u64;
                self.at = if left == 0 { At::Boundary } else { At::Payload { left } };
                here
            }
        }
    }
}

/// A message of text in one frame, as servers write it.
pub(crate) fn text(message: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match (u8::try_from(message.len()), u16::try_from(message.len())) {
        (Ok(short @ 0..=125), _) => frame.push(short),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((message.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(message.as_bytes());
    frame
}

fn payload(length: u64, masked: bool) -> At {
    match if masked { length.saturating_add(4) } else { length } {
        0 => At::Boundary,
        left => At::Payload { left },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a server writes it, or as a client does.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..=125 => frame.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(mask | 0x7e);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 0x7f);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        // Payloads that look like heads must not be taken for any.
        frame.extend(std::iter::repeat_n(0x88, length + if masked { 4 } else { 0 }));
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![Just(0usize), 0..130usize, 120..130usize, 65_530..65_545usize];
        let one = (prop_oneof![Just(0u8), Just(1), Just(2), Just(9), Just(10)], length, any::<bool>());
        prop::collection::vec(one.prop_map(|(opcode, length, masked)| frame(opcode, length, masked)), 0..8)
    }

    proptest! {
        #[test]
        fn boundaries_are_where_frames_end(frames in frames(), cuts in prop::collection::vec(1..5000usize, 1..40)) {
            let stream = frames.concat();
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let (mut tracker, mut at) = (Frames::default(), 0);
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(tracker.at_boundary(), at == 0 || ends.contains(&at), "at {}", at);
                prop_assert!(!tracker.is_closed());
                if at == stream.len() {
                    break;
                }
                let piece = &stream[at..stream.len().min(at + cut)];
                // What is left of the frame that this piece stands in, or of the next one.
                let end = ends.iter().find(|end| **end > at).map(|end| end - at);
                prop_assert_eq!(tracker.clone().feed_to_boundary(piece), end.filter(|end| *end <= piece.len()));
                tracker.feed(piece);
                at += piece.len();
            }
        }

        #[test]
        fn nonsense_is_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut tracker = Frames::default();
            for piece in pieces {
                tracker.feed(&piece);
            }
        }
    }

    #[test]
    fn a_message_ends_with_its_last_frame() {
        let mut tracker = Frames::default();
        // A text in three frames, with a ping in between; then one in one frame.
        for (first, ends) in [(0x01, false), (0x89, false), (0x00, false), (0x80, true), (0x8a, true), (0x82, true), (0x02, false)] {
            tracker.feed(&[first, 1]);
            assert!(!tracker.at_message_boundary());
            tracker.feed(b"x");
            assert!(tracker.at_boundary());
            assert_eq!(tracker.at_message_boundary(), ends, "{first:#x}");
        }
    }

    #[test]
    fn our_texts_are_frames() {
        for length in [0, 125, 126, 0xffff, 0x1_0000] {
            let text = text(&"x".repeat(length));
            let mut expected = frame(1, length, false);
            let at = expected.len() - length;
            expected[at..].fill(b'x');
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_close_frame_is_the_last_one() {
        let mut tracker = Frames::default();
        tracker.feed(&frame(1, 5, false));
        assert!(!tracker.is_closed());
        tracker.feed(&[0x88]);
        assert!(tracker.is_closed() && !tracker.at_boundary());
        tracker.feed(&[0x02, 0x03, 0xe8]);
        assert!(tracker.is_closed() && tracker.at_boundary());
    }
}
