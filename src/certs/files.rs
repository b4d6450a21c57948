//! Finding pairs on disk, and noticing that they have changed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::Path;

use super::flaw::Flaw;
use crate::config::PairFiles;

/// What tells one generation of a file from the next. It is that of the file which symbolic links lead to, so a
/// swapped link shows as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks at a file, without reading it.
pub(super) fn stamp(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|meta| of(&meta))
}

#[cfg(unix)]
fn of(meta: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        len: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

/// The pairs in a directory and one level below, by name.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn scan(dir: &Path) -> Result<BTreeMap<String, PairFiles>, Flaw> {
    let mut found = BTreeMap::new();
    pairs_in(dir, "", &mut found)
        .map_err(|error| Flaw::new("server.tls.cert_dir", format!("{} cannot be listed: {error}", dir.display())))?;
    for (name, path) in listed(dir).unwrap_or_default() {
        // One that cannot be listed, or has just gone, holds no pair of ours.
        if path.is_dir() {
            let _ = pairs_in(&path, &format!("{name}/"), &mut found);
        }
    }
    Ok(found)
}

/// What a directory holds, but for names with a dot in front: the kubelet keeps generations of a mounted secret there.
fn listed(dir: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

fn pairs_in(dir: &Path, prefix: &str, found: &mut BTreeMap<String, PairFiles>) -> io::Result<()> {
    for (name, cert) in listed(dir)? {
        // As certbot names them, as everybody else does, as mkcert does.
        let keys = match name.rsplit_once('.') {
            Some(("fullchain", "pem")) => vec!["privkey.pem".to_owned()],
            Some((stem, "crt" | "pem")) => vec![format!("{stem}.key"), format!("{stem}-key.pem")],
            _ => continue,
        };
        // A certificate without a key is an authority's, or a part of a chain.
        if let Some(key) = keys.into_iter().map(|key| dir.join(key)).find(|key| key.exists()) {
            found.insert(format!("{prefix}{name}"), PairFiles { cert, key });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_as_everybody_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        for name in [
            "tls.crt",
            "tls.key",
            "ca.crt",
            "a.example.crt",
            "a.example.key",
            "b.pem",
            "b.key",
            "c.pem",
            "c-key.pem",
            "alone.crt",
            "alone.pem",
            "x.key",
            "le/fullchain.pem",
            "le/privkey.pem",
            "le/cert.pem",
            "le/chain.pem",
            "sub/tls.crt",
            "sub/tls.key",
            "sub/deep/tls.crt",
            "sub/deep/tls.key",
            "..2026_01_01/tls.crt",
            "..2026_01_01/tls.key",
            "notes.txt",
        ] {
            write(name);
        }
        let found = scan(dir.path()).unwrap();
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.example.crt", "b.pem", "c.pem", "le/fullchain.pem", "sub/tls.crt", "tls.crt"]);
        assert!(found["le/fullchain.pem"].key.ends_with("le/privkey.pem") && found["c.pem"].key.ends_with("c-key.pem"));
        let flaw = scan(&dir.path().join("nothing")).unwrap_err();
        assert!(flaw.key == "server.tls.cert_dir" && flaw.why.contains("nothing cannot be listed"), "{flaw}");
    }
}
