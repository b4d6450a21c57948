//! Typed reading of one key after the other; whatever is wrong is noted, and reading goes on.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::keys::{self, Key, Kind};
use crate::config::raw::{Entry, Place, Raw, Value, quote, shown};
use crate::config::{Problem, Warning};
use crate::secret::SecretSource;

/// Reads from [`Raw`] and gathers problems and warnings.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    raw: &'a Raw,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Raw, problems: Vec<Problem>) -> Self {
        Self { raw, problems, warnings: Vec::new() }
    }

    /// Something is wrong at a key, with the value as it was written.
    pub(super) fn problem(&mut self, path: &str, why: impl Into<String>) {
        let problem = self.about(path, None, why.into());
        self.problems.push(problem);
    }

    /// Something is wrong with one item of a list.
    pub(super) fn item_problem(&mut self, path: &str, item: &str, why: impl Into<String>) {
        let problem = self.about(path, Some(item), why.into());
        self.problems.push(problem);
    }

    /// Something is suspicious at a key.
    pub(super) fn warn(&mut self, path: &str, why: impl Into<String>) {
        let warning = self.about(path, None, why.into());
        self.warnings.push(warning);
    }

    fn about(&self, path: &str, item: Option<&str>, why: String) -> Problem {
        // An empty default is nothing that anybody wrote.
        let blank = |entry: &&Entry| entry.place == Place::Default && matches!(entry.written.as_str(), "\"\"" | "[]");
        let entry = self.raw.get(path).filter(|entry| !blank(entry));
        let value = item.map(|item| shown(&quote(item))).or_else(|| entry.map(|entry| entry.written.clone()));
        let place = entry.map(|entry| entry.place.to_string());
        Problem { key: path.into(), value: value.unwrap_or_default(), place: place.unwrap_or_default(), why }
    }

    /// Something was written here, other than the default.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.raw.is_written(path)
    }

    fn value(&self, path: &str) -> Option<&'a Value> {
        self.raw.get(path).map(|entry: &'a Entry| &entry.value)
    }

    /// A string; `None` when it is empty, which stands for "not used".
    pub(super) fn optional(&self, path: &str) -> Option<&'a str> {
        match self.value(path) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A string that has to be there.
    pub(super) fn needed(&mut self, path: &str) -> Option<&'a str> {
        let found = self.optional(path);
        if found.is_none() && self.value(path) != Some(&Value::Unusable) {
            self.problem(path, missing(path));
        }
        found
    }

    /// Makes something of a string that has to be there.
    pub(super) fn parse<T>(&mut self, path: &str, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.needed(path)?;
        self.make(path, text, make)
    }

    /// Makes something of a string that may be empty.
    pub(super) fn parse_optional<T>(&mut self, path: &str, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.optional(path)?;
        self.make(path, text, make)
    }

    /// Makes something of a string, the empty one included.
    pub(super) fn parse_text<T>(&mut self, path: &str, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(Value::Text(text)) = self.value(path) else { return None };
        self.make(path, text, make)
    }

    /// One of the words that the key knows.
    pub(super) fn one_of(&mut self, path: &str) -> Option<&'a str> {
        let word = self.needed(path)?;
        let words = match keys::find(path) {
            Some((Key { kind: Kind::OneOf(words), .. }, _)) => *words,
            _ => &[],
        };
        if words.contains(&word) {
            return Some(word);
        }
        let meant = keys::nearest(word, words.iter().map(|&known| known.to_owned()));
        self.problem(path, format!("is not one of {}; the nearest is \"{meant}\"", keys::quoted(words)));
        None
    }

    fn make<T>(&mut self, path: &str, text: &str, make: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        make(text).map_err(|why| self.problem(path, why)).ok()
    }

    /// `true` or `false`.
    pub(super) fn bool(&self, path: &str) -> Option<bool> {
        match self.value(path) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    /// A whole number within a range.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self, path: &str, range: RangeInclusive<i64>) -> Option<T> {
        let Some(Value::Integer(value)) = self.value(path) else { return None };
        if !range.contains(value) {
            let top = *range.end();
            let upto = if top == i64::MAX { "or more".into() } else { format!("to {top}") };
            self.problem(path, format!("is out of range; write {} {upto}", range.start()));
            return None;
        }
        T::try_from(*value).ok()
    }

    /// A duration greater than zero.
    pub(super) fn duration(&mut self, path: &str) -> Option<Duration> {
        let duration = self.duration_or_zero(path)?;
        if duration.is_zero() {
            self.problem(path, "is zero, which would stop everything that waits for it; write a duration such as \"2s\"");
            return None;
        }
        Some(duration)
    }

    /// A duration, zero included.
    pub(super) fn duration_or_zero(&mut self, path: &str) -> Option<Duration> {
        // Clocks and caches cannot count much further, and nobody means more.
        const LONGEST: Duration = Duration::from_hours(24 * 366);
        self.parse(path, |text| {
            let duration = humantime::parse_duration(text).map_err(|error| {
                format!("is not a duration ({error}); write a number and a unit, such as \"500ms\", \"30s\", \"10m\", \"12h\"")
            })?;
            if duration > LONGEST { Err("is longer than a year".into()) } else { Ok(duration) }
        })
    }

    /// A list of strings, empty items reported.
    pub(super) fn list(&mut self, path: &str) -> Vec<&'a str> {
        self.each(path, |_| Ok(())).into_iter().map(|(item, ())| item).collect()
    }

    /// Makes something of each item of a list; what fails is reported and left out.
    pub(super) fn each<T>(&mut self, path: &str, make: impl Fn(&str) -> Result<T, String>) -> Vec<(&'a str, T)> {
        let Some(Value::List(items)) = self.value(path) else { return Vec::new() };
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            let result = if item.is_empty() { Err("has an empty item; take it out".into()) } else { make(item) };
            match result {
                Ok(one) => kept.push((item.as_str(), one)),
                Err(why) => self.item_problem(path, item, why),
            }
        }
        kept
    }

    /// A list without any item was given.
    pub(super) fn is_blank(&self, path: &str) -> bool {
        matches!(self.value(path), Some(Value::List(items)) if items.is_empty())
    }

    /// Something was given that cannot be read; that has been reported.
    pub(super) fn is_unusable(&self, path: &str) -> bool {
        self.value(path) == Some(&Value::Unusable)
    }

    /// A secret, written out or in a file. `min` is the number of bytes under which it is called weak.
    pub(super) fn secret(&mut self, path: &str, min: usize) -> Option<SecretSource> {
        let file = format!("{path}_file");
        let (path, source) = match (self.value(path), self.value(&file)) {
            (_, Some(Value::Text(name))) => (file.as_str(), self.secret_file(&file, name)?),
            (Some(Value::Secret(secret)), _) => {
                if secret.expose().is_empty() {
                    let empty = "is empty, perhaps because a variable that should fill it is not set; write the secret or take the key out";
                    self.problem(path, empty);
                    return None;
                }
                (path, SecretSource::inline(secret.expose()))
            }
            _ => return None,
        };
        let secret = source.get();
        if secret.expose().trim() != secret.expose() {
            self.warn(path, "begins or ends with white space, which is taken as part of the secret");
        }
        if secret.expose().len() < min {
            self.warn(path, format!("is shorter than {min} bytes and may be guessed; make one with: openssl rand -hex 32"));
        }
        Some(source)
    }

    /// A secret that has to be there.
    pub(super) fn needed_secret(&mut self, path: &str) -> Option<SecretSource> {
        let before = self.problems.len();
        let found = self.secret(path, 0);
        let told = self.problems.len() > before || self.is_unusable(path) || self.is_unusable(&format!("{path}_file"));
        if found.is_none() && !told {
            self.problem(path, missing(path));
        }
        found
    }

    /// A file that holds a secret or a key.
    pub(super) fn secret_file(&mut self, path: &str, name: &str) -> Option<SecretSource> {
        if name.is_empty() {
            self.problem(path, "is empty; write the path of the file or take the key out");
            return None;
        }
        match SecretSource::file(name) {
            Ok(source) => {
                self.look_at_mode(path, name);
                Some(source)
            }
            Err(error) => {
                self.problem(path, format!("cannot be used: {error}; put the secret there, readable for the user that Gantry runs as"));
                None
            }
        }
    }

    #[cfg(unix)]
    fn look_at_mode(&mut self, path: &str, name: &str) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let Ok(meta) = std::fs::metadata(name) else { return };
        let mode = meta.permissions().mode() & 0o777;
        // /proc/self belongs to whom this process runs as.
        let is_ours = std::fs::metadata("/proc/self").map_or(true, |own| own.uid() == meta.uid());
        if keys::find(path).is_some_and(|(key, _)| key.is_secret()) && too_open(mode, is_ours) {
            self.warn(path, format!("can be read by other users (mode {mode:04o}); chmod 0400, or defaultMode: 0440 in Kubernetes"));
        }
    }

    #[cfg(not(unix))]
    fn look_at_mode(&mut self, _path: &str, _name: &str) {}
}

/// Whether a secret's mode lets more people read it than has to be. Kubernetes gives a pod's secrets to root and lets the
/// pod read them by its group (fsGroup): of a file that is not ours the group's bit is needed.
fn too_open(mode: u32, is_ours: bool) -> bool {
    mode & if is_ours { 0o044 } else { 0o004 } != 0
}

/// What to do about a key that has to be there.
fn missing(path: &str) -> String {
    let Some((key, _)) = keys::find(path) else { return "is required".into() };
    let kind = match key.kind {
        Kind::Secret => format!(": set {}_file to a file that holds it, or {}", key.name(), keys::variable(path)),
        kind => format!(": write {} there, or set {}", kind.expected(), keys::variable(path)),
    };
    format!("is required under [{}]{kind}", key.section())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_read_what_belongs_to_somebody_else() {
        for (mode, is_ours, expected) in [
            (0o400, true, false),
            (0o600, true, false),
            (0o440, true, true),
            (0o404, true, true),
            (0o440, false, false),
            (0o444, false, true),
        ] {
            assert_eq!(too_open(mode, is_ours), expected, "{mode:o} {is_ours}");
        }
    }
}
