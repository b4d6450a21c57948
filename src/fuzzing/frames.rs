//! Frames of a WebSocket: wherever the bytes are cut, the same frames are seen.

use crate::edge::frames::Frames;

/// For each number of bytes whether a frame ends there, read frame by frame; and how many bytes a close frame
/// begins behind.
fn boundaries(bytes: &[u8]) -> (Vec<usize>, Option<usize>) {
    let (mut ends, mut closed, mut at) = (vec![0], None, 0);
    while let Some(first) = bytes.get(at) {
        if first & 0x0f == 8 {
            closed = closed.or(Some(at + 1));
        }
        let Some(second) = bytes.get(at + 1) else { break };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = bytes.get(at + 2..at + 2 + extended) else { break };
        let length = match extended {
            0 => u128::from(second & 0x7f),
            _ => length.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let end = (at + 2 + extended) as u128 + mask + length;
        if end > bytes.len() as u128 {
            break;
        }
        at = usize::try_from(end).expect("not longer than what there is");
        ends.push(at);
    }
    (ends, closed)
}

/// First byte: how the rest is cut.
///
/// # Panics
/// A frame is seen to end where none does, or the other way round.
pub fn frames(data: &[u8]) {
    let (first, bytes) = data.split_first().unwrap_or((&0, &[]));
    let (ends, closed) = boundaries(bytes);
    for size in [1, usize::from(*first).max(1), bytes.len().max(1)] {
        let (mut frames, mut at) = (Frames::default(), 0);
        for piece in bytes.chunks(size) {
            frames.feed(piece);
            at += piece.len();
            assert_eq!(frames.at_boundary(), ends.contains(&at), "at {at}, pieces of {size}");
            assert_eq!(frames.is_closed(), closed.is_some_and(|closed| closed <= at), "at {at}, pieces of {size}");
        }
    }
    for start in 0..bytes.len().min(64) {
        let mut frames = Frames::default();
        frames.feed(&bytes[..start]);
        let next = ends.iter().find(|end| **end > start).map(|end| end - start);
        assert_eq!(frames.feed_to_boundary(&bytes[start..]), next, "from {start}");
    }
}
