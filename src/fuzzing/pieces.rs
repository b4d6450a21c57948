//! A fuzzer's bytes as a row of choices, so that most inputs are nearly valid and the fuzzer gets deep.

/// The bytes that are left. Once they are used up every choice is the first one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces<'a>(&'a [u8]);

impl<'a> Pieces<'a> {
    /// All of `data`.
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// A number below `end`, which is not 0 and at most 256.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// Whether something comes to pass that does so once in `often`.
    pub(super) fn once_in(&mut self, often: usize) -> bool {
        self.below(often) == often - 1
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Up to `most` bytes as they are.
    pub(super) fn raw(&mut self, most: usize) -> &'a [u8] {
        let n = (usize::from(self.byte()) % (most + 1)).min(self.0.len());
        let (raw, rest) = self.0.split_at(n);
        self.0 = rest;
        raw
    }
}

/// `bytes` cut as `cuts` says: a piece is 1 to 255 bytes long, and all the rest once `cuts` says 0.
pub(super) fn cut(bytes: &[u8], cuts: &mut Pieces<'_>) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = match usize::from(cuts.byte()) {
            0 => rest.len(),
            n => n.min(rest.len()),
        };
        let (piece, behind) = rest.split_at(n);
        pieces.push(piece.to_vec());
        rest = behind;
    }
    pieces
}
