//! What the fuzz targets in `fuzz/` check: one function for each of them, with assertions beyond "does not
//! panic". They are here and not there, so that they reach what is private, and so that each checked-in input
//! runs as a unit test as well.

mod answers;
mod claims;
mod codec;
mod cookies;
mod ddp;
mod forwarded;
mod frames;
mod framing;
mod grammar;
mod heads;
mod jwt;
mod origins;
mod paths;
mod pieces;
mod proxy_protocol;
mod requests;
mod rest;
mod settings;
mod wire;
mod world;

pub use answers::answers;
pub use claims::claims;
pub use codec::codec;
pub use cookies::cookies;
pub use ddp::ddp;
pub use forwarded::forwarded;
pub use frames::frames;
pub use framing::framing;
pub use heads::heads;
pub use jwt::jwt;
pub use origins::origins;
pub use paths::paths;
pub use proxy_protocol::proxy_protocol;
pub use requests::requests;
pub use rest::rest;
pub use settings::settings;

/// A fuzz target: takes any bytes, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All of them, by the names that they have in `fuzz/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("answers", answers),
    ("claims", claims),
    ("codec", codec),
    ("cookies", cookies),
    ("ddp", ddp),
    ("forwarded", forwarded),
    ("frames", frames),
    ("framing", framing),
    ("heads", heads),
    ("jwt", jwt),
    ("origins", origins),
    ("paths", paths),
    ("proxy_protocol", proxy_protocol),
    ("requests", requests),
    ("rest", rest),
    ("settings", settings),
];

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::{fs, panic};

    use super::*;

    /// Checked-in inputs, and those that once found something.
    fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        ["corpus", "crashes"]
            .iter()
            .filter_map(|kind| fs::read_dir(fuzz.join(kind).join(target)).ok())
            .flat_map(|dir| dir.map(|entry| entry.unwrap().path()))
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    /// What `target` says against an input, if anything.
    fn broken(target: Target, input: &[u8]) -> Option<String> {
        let outcome = panic::catch_unwind(|| target(input)).err()?;
        let words = outcome.downcast_ref::<String>().cloned().or_else(|| outcome.downcast_ref::<&str>().map(|words| (*words).to_owned()));
        Some(words.unwrap_or_default())
    }

    #[test]
    fn every_checked_in_input_holds() {
        let mut wrong = Vec::new();
        for (name, target) in TARGETS {
            let inputs = inputs(name);
            assert!(!inputs.is_empty(), "fuzz/corpus/{name} is empty");
            for (path, input) in inputs {
                wrong.extend(broken(*target, &input).map(|why| format!("{}: {why}", path.display())));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// Blind changes of the checked-in inputs, the same ones each time: less than a fuzzer finds, and on every
    /// machine. `FUZZ_RUNS` and `FUZZ_SEED` make it more and others; `FUZZ_TARGET` picks one.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test that is asked for more is no command")]
    fn changed_inputs_hold() {
        let set = |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        let (runs, only) = (set("FUZZ_RUNS", 100), std::env::var("FUZZ_TARGET").ok());
        let mut wrong = Vec::new();
        for (name, target) in TARGETS.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
            let inputs: Vec<Vec<u8>> = inputs(name).into_iter().map(|(_, input)| input).collect();
            let mut random = Random(set("FUZZ_SEED", 1));
            for _ in 0..runs {
                let input = random.changed(&inputs);
                let Some(why) = broken(*target, &input) else { continue };
                let small = smaller(*target, input);
                wrong.push(format!("{name}: {why}\n  input: b\"{}\"", small.escape_ascii()));
                break;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// `SplitMix64`.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap()
        }

        fn changed(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
            let mut input = inputs[self.below(inputs.len())].clone();
            if self.below(4) == 0 {
                // All bytes: for targets that take choices.
                input = (0..self.below(200)).map(|_| u8::try_from(self.below(256)).unwrap()).collect();
            }
            for _ in 0..=self.below(4) {
                let at = self.below(input.len() + 1);
                let end = (at + self.below(12)).min(input.len());
                match self.below(6) {
                    0 => input.truncate(at),
                    1 => drop(input.drain(at..end)),
                    2 => input.insert(at, u8::try_from(self.below(256)).unwrap()),
                    3 => {
                        let piece = input[at..end].to_vec();
                        input.splice(at..at, piece);
                    }
                    4 => {
                        let other = &inputs[self.below(inputs.len())];
                        let from = self.below(other.len() + 1);
                        let to = (from + self.below(40)).min(other.len());
                        input.splice(at..end, other[from..to].iter().copied());
                    }
                    _ => {
                        if let Some(byte) = input.get_mut(at) {
                            let odd = b"\0\t\n\r \",;:=%/.#-_0\x7f\x80\xff";
                            *byte = odd[self.below(odd.len())];
                        }
                    }
                }
            }
            input
        }
    }

    /// A shorter input that breaks the target as well.
    fn smaller(target: Target, mut input: Vec<u8>) -> Vec<u8> {
        let mut step = input.len() / 2;
        while step > 0 {
            let mut at = 0;
            while at < input.len() {
                let mut shorter = input.clone();
                shorter.drain(at..(at + step).min(input.len()));
                if broken(target, &shorter).is_some() { input = shorter } else { at += step }
            }
            step /= 2;
        }
        input
    }

    #[test]
    fn every_target_can_be_run() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut built: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        built.sort();
        assert_eq!(built, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "fuzz/Cargo.toml lacks {name}");
            let source = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(source.contains(&format!("gantry::fuzzing::{name}(data)")), "{source}");
        }
    }
}
