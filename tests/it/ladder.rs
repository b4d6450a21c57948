//! The modules form a ladder: each may name only those above its own in `lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_module_names_only_those_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    let rungs: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(rungs.len() > 15, "lib.rs lists the ladder: {rungs:?}");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let own = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(rung) = rungs.iter().position(|name| *name == own) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        // Unit tests may borrow doubles from anywhere.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for (at, _) in line.match_indices("crate::") {
                let named: Vec<&str> = match line[at + 7..].strip_prefix('{') {
                    Some(list) => list.split(',').collect(),
                    None => vec![&line[at + 7..]],
                };
                for name in named {
                    let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if rungs.iter().position(|rung| *rung == name).is_some_and(|other| other > rung) {
                        wrong.push(format!("src/{}:{}: {own} may not use {name}", relative.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
