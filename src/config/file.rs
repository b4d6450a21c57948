//! `proxy.toml` itself: from TOML to entries with their lines.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::Problem;
use super::keys::{self, Key, Kind};
use super::raw::{Entry, Layer, Place, Value, quote, shown};
use crate::secret::Secret;

/// Reads the file. A syntax error is one problem, and nothing else is read then.
pub(super) fn read(name: &str, text: &str) -> Layer {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let mut layer = Layer::default();
    match DeTable::parse(text) {
        Ok(table) => Walk { name: Arc::from(name), text, layer: &mut layer }.table("", table.get_ref()),
        Err(error) => layer.complain(0, syntax(&name, text, &error)),
    }
    layer
}

struct Walk<'a> {
    name: Arc<str>,
    text: &'a str,
    layer: &'a mut Layer,
}

impl Walk<'_> {
    fn table(&mut self, above: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let line = line_of(self.text, name.span().start);
            let plain = name.get_ref().chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            let name = if plain && !name.get_ref().is_empty() { name.get_ref().to_string() } else { quote(name.get_ref()) };
            let path = if above.is_empty() { name } else { format!("{above}.{name}") };
            match (keys::find(&path), value.get_ref()) {
                (Some((key, is_file)), _) => self.entry(path, key, is_file, value, line),
                (None, DeValue::Table(inner)) if keys::is_section(&path) => self.table(&path, inner),
                (None, _) if keys::is_section(&path) => {
                    let why = format!("is a section, not a value: write its keys under [{path}]");
                    self.complain(line, path, String::new(), why);
                }
                (None, DeValue::Table(_)) => {
                    let meant = keys::nearest(&path, keys::sections());
                    self.complain(line, path, String::new(), format!("is not a known section; the nearest known one is [{meant}]"));
                }
                // The value is not shown: it may be a secret behind a misspelt key.
                (None, _) => {
                    let meant = keys::nearest(&path, keys::paths().chain(keys::sections()));
                    self.complain(line, path, String::new(), format!("is not a known key; the nearest known one is {meant}"));
                }
            }
        }
    }

    fn entry(&mut self, path: String, key: &Key, is_file: bool, value: &Spanned<DeValue<'_>>, line: usize) {
        let kind = if is_file { Kind::Path } else { key.kind };
        let written = if kind == Kind::Secret { "***".into() } else { shown(self.text.get(value.span()).unwrap_or_default()) };
        let place = Place::File { name: Arc::clone(&self.name), line };
        let usable = of_kind(kind, value.get_ref());
        if usable.is_none() {
            let why = format!("is {}: expected {}", described(value.get_ref()), kind.expected());
            self.complain(line, path.clone(), written.clone(), why);
        }
        self.layer.put(path, Entry { value: usable.unwrap_or(Value::Unusable), place, written });
    }

    fn complain(&mut self, line: usize, key: String, value: String, why: String) {
        let place = Place::File { name: Arc::clone(&self.name), line }.to_string();
        self.layer.complain(line, Problem { key, value, place, why });
    }
}

/// The value, if it has the shape that the kind asks for.
fn of_kind(kind: Kind, value: &DeValue<'_>) -> Option<Value> {
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(value)) => Some(Value::Bool(*value)),
        (Kind::Integer, DeValue::Integer(value)) => integer(value).map(Value::Integer),
        (Kind::OneOrMore, DeValue::String(one)) => Some(Value::List(vec![one.to_string()])),
        (Kind::List | Kind::OneOrMore, DeValue::Array(items)) => {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<_>>().map(Value::List)
        }
        (Kind::Secret, DeValue::String(text)) => Some(Value::Secret(Secret::new(text.as_ref()))),
        (Kind::Bool | Kind::Integer | Kind::List | Kind::OneOrMore, _) => None,
        (_, DeValue::String(text)) => Some(Value::Text(text.to_string())),
        _ => None,
    }
}

fn integer(value: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(value) if integer(value).is_none() => "a number that is too large",
        DeValue::Integer(_) => "a number without quotes",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(items) if items.iter().any(|item| !item.get_ref().is_str()) => "a list of other things than strings",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// What the parser did not understand, with the line it stands in.
fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Problem {
    let mut at = error.span().map_or(0, |span| span.start).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let column = 1 + text[start..at].chars().count();
    let line = text[start..].lines().next().unwrap_or_default();
    let line = if may_hold_secret(text, start, line) { masked(text, start, line) } else { shown(line) };
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let why = format!("is not TOML: {message}: {line}");
    Problem { key: String::new(), value: String::new(), place: format!("{name} line {}, column {column}", line_of(text, at)), why }
}

/// Whether a secret may stand in this line: it is inside a multi-line string, or the statement it
/// belongs to may be about one. Rather once too often than once too seldom.
fn may_hold_secret(text: &str, start: usize, line: &str) -> bool {
    let before = &text[..start];
    let begins = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '[');
    // A line that begins no statement belongs to the one above it.
    let above = if begins(&line) { None } else { before.lines().rev().find(begins) };
    in_long_string(before) || about_secret(line) || above.is_some_and(about_secret)
}

fn in_long_string(before: &str) -> bool {
    before.matches("\"\"\"").count() % 2 == 1 || before.matches("'''").count() % 2 == 1
}

fn about_secret(statement: &str) -> bool {
    let words = |part: &str| {
        let part = part.to_lowercase();
        ["secret", "token", "pass", "auth", "key"].iter().any(|word| part.contains(word))
    };
    match statement.split_once('=') {
        Some((name, rest)) if is_harmless(name.trim()) => rest.contains('=') && words(rest),
        Some(_) => words(statement),
        None => !statement.trim_start().starts_with('[') && words(statement),
    }
}

/// Whether keys of this name exist and none of them is a secret.
fn is_harmless(name: &str) -> bool {
    let leaf = name.rsplit('.').next().unwrap_or_default();
    let known = |key: &&Key| key.name() == leaf || (key.is_secret() && leaf.strip_suffix("_file") == Some(key.name()));
    let mut same = keys::KEYS.iter().filter(known).peekable();
    same.peek().is_some() && same.all(|key| !key.is_secret() || leaf.ends_with("_file"))
}

/// The known key in front of what may be a secret.
fn masked(text: &str, start: usize, line: &str) -> String {
    let name = line.split('=').next().unwrap_or_default().trim();
    let known = keys::paths().any(|path| path == name || path.ends_with(&format!(".{name}")));
    if known && !in_long_string(&text[..start]) { format!("{name} = ***") } else { "***".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        let error = DeTable::parse(text).expect_err("not TOML");
        syntax("proxy.toml", text, &error)
    }

    #[test]
    fn a_syntax_error_names_the_place_and_shows_the_line() {
        let problem = problem("[server]\nlisten = \"x\"\nworkers = = 2\n");
        assert!(problem.place.starts_with("proxy.toml line 3, column"), "{problem:?}");
        assert!(problem.why.ends_with(": workers = = 2"), "{problem:?}");
    }

    #[test]
    fn a_syntax_error_in_a_secret_does_not_show_it() {
        for text in [
            "[rocketchat]\nauth_token = \"hunter2\n",
            "[rocketchat]\nauth_token = hunter2\n",
            "[rocketchat]\nauth_token \"hunter2\"\n",
            "[rocketchat]\nauth_token =\n\"hunter2\"\n",
            "rocketchat = { auth_token = \"hunter2\", url = }\n",
            "server.listen = \"x\" rocketchat.auth_token = \"hunter2\"\n",
            "[rocketchat]\nauth_token = \"\"\"\nhunter2=x\\q\n\"\"\"\n",
            "[rocketchat]\nauth_token = [\n  \"hunter2\" x\n]\n",
            "pat.auth = hunter2\n",
        ] {
            let problem = problem(text);
            assert!(!problem.why.contains("hunter2"), "{text:?}: {problem:?}");
        }
        assert!(problem("[rocketchat]\nauth_token = hunter2\n").why.ends_with(": auth_token = ***"));
        assert!(problem("[rocketchat]\nauth_token_file = \"/run/x\n").why.ends_with(": auth_token_file = \"/run/x"));
    }

    #[test]
    fn arbitrary_depth_is_an_error_and_no_overflow() {
        let deep = format!("a = {}", "[".repeat(5_000));
        assert!(!problem(&deep).why.is_empty());
    }
}
