//! What was written, by key, with the place it was written in: the first of the two steps.
//!
//! A flag beats an environment variable, that beats the file, and that beats the default.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::keys::{self, Key, Kind, Preset};
use super::{Problem, file};
use crate::secret::Secret;

/// Everything that was written, and the defaults of what was not.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    entries: BTreeMap<String, Entry>,
}

/// What stands at one key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The value, of the shape that the key's kind asks for.
    pub value: Value,
    /// Where it was written.
    pub place: Place,
    /// The value as written, on one line, secrets masked.
    pub written: String,
}

/// A value of the right shape, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A list of strings.
    List(Vec<String>),
    /// A string that must not be shown.
    Secret(Secret),
    /// Of the wrong shape; that has been reported.
    Unusable,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// A line of the file, counted from 1.
    File {
        /// The file's name.
        name: Arc<str>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag, named by its key.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { name, line } => write!(f, "{name} line {line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(key) => write!(f, "flag --set {key}"),
        }
    }
}

/// What one source (the file, the environment, the flags) says.
#[derive(Debug, Default)]
pub(super) struct Layer {
    entries: BTreeMap<String, Entry>,
    /// With the line they are about, 0 where there is none.
    problems: Vec<(usize, Problem)>,
}

impl Raw {
    /// Reads all sources. Problems of shape come back beside what could be read, so that the rest can
    /// still be checked.
    pub fn read(
        text: Option<(&str, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> (Self, Vec<Problem>) {
        let mut layers = vec![defaults()];
        if let Some((name, text)) = text {
            layers.push(file::read(name, text));
        }
        layers.push(environment(env));
        layers.push(flag_layer(flags));
        let mut raw = Self::default();
        let mut problems = Vec::new();
        for layer in layers {
            problems.extend(layer.both_forms());
            raw.overlay(layer.entries);
            let mut own = layer.problems;
            own.sort_by_key(|(line, _)| *line);
            problems.extend(own.into_iter().map(|(_, problem)| problem));
        }
        (raw, problems)
    }

    /// What stands at a path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Whether something was written at a path, be it a default or not usable.
    pub fn is_written(&self, path: &str) -> bool {
        self.get(path).is_some_and(|entry| entry.place != Place::Default)
    }

    /// Lays a higher layer over what is there.
    fn overlay(&mut self, entries: BTreeMap<String, Entry>) {
        // A secret and its file form are one thing: the higher layer replaces both.
        for path in entries.keys() {
            if let Some((key, _)) = keys::find(path).filter(|(key, _)| key.is_secret()) {
                self.entries.remove(key.path);
                self.entries.remove(&format!("{}_file", key.path));
            }
        }
        self.entries.extend(entries);
    }
}

impl Layer {
    pub(super) fn put(&mut self, path: String, entry: Entry) {
        self.entries.insert(path, entry);
    }

    pub(super) fn complain(&mut self, line: usize, mut problem: Problem) {
        // The name of a variable, or of a key in quotes, may be anything.
        problem.key = shown(&problem.key);
        self.problems.push((line, problem));
    }

    /// Secrets that one layer writes twice, once itself and once as a file.
    fn both_forms(&self) -> Vec<Problem> {
        let secrets = keys::KEYS.iter().filter(|key| key.is_secret());
        let both = secrets.filter_map(|key| {
            let (inline, file) = (self.entries.get(key.path)?, self.entries.get(&format!("{}_file", key.path))?);
            let why = format!("is set and so is {}_file ({}); keep one of the two", key.path, file.place);
            Some(Problem { key: key.path.into(), value: inline.written.clone(), place: inline.place.to_string(), why })
        });
        both.collect()
    }
}

/// The defaults of the table, read by the same code as the file.
fn defaults() -> Layer {
    let mut text = String::new();
    for key in keys::KEYS {
        if let Preset::Toml(default) = key.preset {
            text.extend([key.path, " = ", default, "\n"]);
        }
    }
    let mut layer = file::read("defaults", &text);
    for entry in layer.entries.values_mut() {
        entry.place = Place::Default;
    }
    layer
}

fn environment(env: impl IntoIterator<Item = (String, String)>) -> Layer {
    let mut layer = Layer::default();
    // The environment has no order; problems should.
    let mut env: Vec<(String, String)> = env.into_iter().filter(|(name, _)| name.starts_with("GANTRY_")).collect();
    env.sort();
    for (name, text) in env {
        // Without "__" it is no key: GANTRY_CONFIG, or what Kubernetes sets for a service named gantry.
        let Some(rest) = name.strip_prefix("GANTRY_").filter(|rest| rest.contains("__")) else { continue };
        let path = keys::paths().find(|path| keys::variable(path) == name);
        if let Some((path, (key, is_file))) = path.and_then(|path| keys::find(&path).map(|found| (path, found))) {
            layer.put_text(path, key, is_file, &text, Place::Variable(name));
        } else {
            let meant = keys::nearest(&rest.replace("__", ".").to_lowercase(), keys::paths());
            let why = format!("is not a known variable; the nearest known one is {}", keys::variable(&meant));
            layer.complain(0, Problem { key: name, value: String::new(), place: "environment".into(), why });
        }
    }
    layer
}

fn flag_layer(flags: &[(String, String)]) -> Layer {
    let mut layer = Layer::default();
    for (path, text) in flags {
        let place = Place::Flag(path.clone());
        if let Some((key, is_file)) = keys::find(path) {
            layer.put_text(path.clone(), key, is_file, text, place);
        } else {
            let why = format!("is not a known key; the nearest known one is {}", keys::nearest(path, keys::paths()));
            layer.complain(0, Problem { key: path.clone(), value: String::new(), place: place.to_string(), why });
        }
    }
    layer
}

impl Layer {
    /// Takes a value that came as plain text, and reads it by the key's kind.
    fn put_text(&mut self, path: String, key: &Key, is_file: bool, text: &str, place: Place) {
        let value = if is_file { Some(Value::Text(text.to_owned())) } else { from_text(key.kind, text) };
        let written = match &value {
            Some(value) => shown(&value.to_toml()),
            None => shown(&quote(text)),
        };
        if value.is_none() {
            let why = format!("has the wrong form: expected {}", key.kind.expected().replace(", without quotes", ""));
            self.complain(0, Problem { key: path.clone(), value: written.clone(), place: place.to_string(), why });
        }
        self.put(path, Entry { value: value.unwrap_or(Value::Unusable), place, written });
    }
}

/// Reads plain text by a key's kind; lists are comma separated.
fn from_text(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Bool => text.trim().parse().ok().map(Value::Bool),
        Kind::Integer => text.trim().replace('_', "").parse().ok().map(Value::Integer),
        Kind::List | Kind::OneOrMore => {
            Some(Value::List(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()))
        }
        Kind::Secret => Some(Value::Secret(Secret::new(text))),
        _ => Some(Value::Text(text.to_owned())),
    }
}

impl Value {
    /// The value as TOML, secrets masked.
    pub fn to_toml(&self) -> String {
        match self {
            Self::Text(text) => quote(text),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")),
            Self::Secret(_) | Self::Unusable => "\"***\"".into(),
        }
    }
}

/// Text as a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.extend(format!("\\u{:04X}", u32::from(c)).chars()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A written value made fit for a message: one line, not too long, no password in a URL.
pub(super) fn shown(written: &str) -> String {
    const LONGEST: usize = 200;
    let line = written.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let masked = without_userinfo(&line);
    if masked.chars().count() > LONGEST { masked.chars().take(LONGEST).chain("…".chars()).collect() } else { masked }
}

/// Masks whatever stands between `://` and the last `@` of the same word.
fn without_userinfo(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let word = tail.find(['"', '\'', ',', ' ']).unwrap_or(tail.len());
        rest = tail;
        if let Some(sign) = tail[..word].rfind('@') {
            out.push_str("***");
            rest = &tail[sign..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_layer_replaces_both_forms_of_a_secret() {
        let file = "rocketchat.auth_token_file = \"/a\"\nrocketchat.create_token_secret = \"x\"\n";
        let env = [("GANTRY_ROCKETCHAT__AUTH_TOKEN".to_owned(), "y".to_owned())];
        let (raw, problems) = Raw::read(Some(("f", file)), env, &[]);
        assert_eq!(problems, []);
        assert!(raw.get("rocketchat.auth_token_file").is_none());
        assert_eq!(raw.get("rocketchat.auth_token").map(|entry| entry.written.as_str()), Some("\"***\""));
        assert!(raw.is_written("rocketchat.create_token_secret"));
        assert!(!raw.is_written("server.listen"));
    }

    #[test]
    fn a_shown_value_is_one_short_line_without_passwords() {
        for (written, expected) in [
            ("\"http://user:pa/ss@host/x\"", "\"http://***@host/x\""),
            ("[\"https://a:b@c\", \"https://d\"]", "[\"https://***@c\", \"https://d\"]"),
            ("[\n  \"a\",\n]", "[ \"a\", ]"),
            ("\"mail@example.com\"", "\"mail@example.com\""),
        ] {
            assert_eq!(shown(written), expected);
        }
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 201);
    }

    #[test]
    fn quoted_text_reads_back() {
        for text in ["", "plain", "a\"b\\c", "tab\tline\nbell\u{7}", "ümlaut 🚀"] {
            let read: toml::Table = format!("x = {}", quote(text)).parse().unwrap();
            assert_eq!(read["x"].as_str(), Some(text));
        }
    }
}
