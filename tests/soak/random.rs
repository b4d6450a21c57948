//! Numbers and bodies that both ends can make from the same seed.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

/// `SplitMix64`: small, fast, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap_or(u64::MAX)).unwrap_or_default()
    }

    /// The size of a body: mostly small, at times some MiB.
    pub fn size(&mut self) -> usize {
        match self.below(100) {
            0..5 => 0,
            5..60 => self.below(4 << 10),
            60..90 => self.below(64 << 10),
            90..99 => self.below(512 << 10),
            _ => self.below(4 << 20),
        }
    }
}

/// Seeds that differ for each who asks, from the seed of the run.
#[derive(Debug)]
pub struct Seeds(AtomicU64);

impl Seeds {
    /// Begins with the seed of the run.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A generator of one's own.
    pub fn random(&self) -> Random {
        Random::new(Random::new(self.0.fetch_add(1, Ordering::Relaxed)).next())
    }
}

/// The body that belongs to a seed.
pub fn body(seed: u64, length: usize) -> Bytes {
    let mut random = Random::new(seed);
    let mut bytes = BytesMut::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.put_u64_le(random.next());
    }
    bytes.truncate(length);
    bytes.freeze()
}

/// FNV-1a of some bytes, to tell one end what the other one got.
pub fn sum(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}-{hash:016x}", bytes.len())
}
