//! `sync.state_file`: what was given to whom, so that it can be taken away again after a restart.
//!
//! The file is replaced as a whole, so that nobody ever sees half of one. One that cannot be understood is put aside
//! and not written over.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Given;

/// The form of the file.
const VERSION: u32 = 1;
/// A larger file was not written by us: that would be records of a million people.
const LARGEST: u64 = 512 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    people: BTreeMap<String, Given>,
}

#[derive(Serialize)]
struct Storing<'a> {
    version: u32,
    people: BTreeMap<&'a str, &'a Given>,
}

/// What is in the file; nothing when there is none.
///
/// # Errors
/// It cannot be used: why, and what was done about it. `Aside` may be written over, `Unreadable` may not.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Given>, ReadError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(ReadError::Unreadable(error.to_string())),
    }
    let why = match serde_json::from_slice::<Stored>(&text) {
        Ok(stored) if stored.version == VERSION => return Ok(stored.people),
        Ok(stored) => format!("it is of version {}, and this Gantry knows version {VERSION}", stored.version),
        Err(_) if text.len() as u64 > LARGEST => format!("it has more than {LARGEST} bytes"),
        Err(error) => format!("it is not a record of Gantry's: {error}"),
    };
    let aside = beside(path, ".bad");
    match std::fs::rename(path, &aside) {
        Ok(()) => Err(ReadError::Aside { why, aside }),
        Err(error) => Err(ReadError::Unreadable(format!("{why}; and it cannot be put aside as {}: {error}", aside.display()))),
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// It was put aside.
    #[error("{why}; it is kept as {}", aside.display())]
    Aside { why: String, aside: PathBuf },
    /// It is where it was, and must not be written over.
    #[error("{0}")]
    Unreadable(String),
}

/// The content of a file.
pub(super) fn content(people: BTreeMap<&str, &Given>) -> Vec<u8> {
    serde_json::to_vec(&Storing { version: VERSION, people }).expect("texts and lists of texts can be written")
}

/// Puts a file in the place of the one that is there.
///
/// # Errors
/// It could not be written; the old one is as it was.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = beside(path, ".part");
    let written = open(&part).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&part, path));
    if done.is_err() {
        // What is left of it takes up room that is missing already.
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// It tells who has which role: readable for our user only.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(ending);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Put;
    use super::*;

    fn some() -> BTreeMap<String, Given> {
        let put = Put { room: "r1".into(), team: None, private: true, name: "berths".into() };
        let ada = Given { roles: ["leader".to_owned()].into(), places: [put].into(), ..Given::default() };
        let bob = Given { avatar: Some("hash".into()), found: ["r2".to_owned()].into(), ..Given::default() };
        BTreeMap::from([("u1".to_owned(), ada), ("u2".to_owned(), bob)])
    }

    fn bytes(people: &BTreeMap<String, Given>) -> Vec<u8> {
        content(people.iter().map(|(user, given)| (user.as_str(), given)).collect())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert!(read(&path).unwrap().is_empty(), "there is none at first");
        write(&path, &bytes(&some())).unwrap();
        assert_eq!(read(&path).unwrap(), some());
        write(&path, &bytes(&BTreeMap::new())).unwrap();
        assert!(read(&path).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, &bytes(&some())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_bad_file_is_put_aside_and_not_written_over() {
        for (bad, word) in [
            ("", "not a record"),
            ("{\"version\":1,\"people\":{\"u1\":{\"rol", "not a record"),
            ("{\"version\":1,\"people\":[]}", "not a record"),
            ("{\"version\":2,\"people\":{}}", "version 2"),
            ("{\"version\":1,\"people\":{\"u1\":{\"grants\":[]}}}", "not a record"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.json");
            std::fs::write(&path, bad).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, ReadError::Aside { .. }) && error.to_string().contains(word), "{bad}: {error}");
            assert_eq!(std::fs::read_to_string(dir.path().join("state.json.bad")).unwrap(), bad);
            assert!(read(&path).unwrap().is_empty());
        }
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, &bytes(&some())).unwrap();
        // As on a disk that is full, the new one cannot be made.
        std::fs::create_dir(dir.path().join("state.json.part")).unwrap();
        assert!(write(&path, b"{}").is_err());
        assert_eq!(read(&path).unwrap(), some());
        let unreadable = dir.path().join("state.json.part");
        assert!(matches!(read(&unreadable), Err(ReadError::Unreadable(_))), "a directory");
    }
}
