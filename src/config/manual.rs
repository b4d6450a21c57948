//! Holds `proxy.toml`, the reference manual, to the code.

use std::collections::BTreeMap;

use super::keys::{self, Kind, Preset};
use super::raw::{Raw, Value};
use super::{file, load, print};

const MANUAL: &str = include_str!("../../proxy.toml");

/// A line that sets a key, commented out or not.
struct Line {
    path: String,
    active: bool,
    toml: String,
}

/// Every key line of the manual; one with an inline table counts once for each key in it.
fn lines() -> Vec<Line> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in MANUAL.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        }
        let (active, line) = line.strip_prefix("# ").map_or((true, line), |rest| (false, rest));
        let Some((name, value)) = line.split_once('=') else { continue };
        let name = name.trim_end();
        // Prose has "=" too; its left side is no bare key.
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            continue;
        }
        let toml = format!("{section}.{name} ={value}\n");
        let table: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{toml}{error}"));
        let mut value = toml::Value::Table(table);
        let mut path = String::new();
        for part in section.split('.').chain([name]) {
            value = value[part].clone();
            path = if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
        }
        match value {
            toml::Value::Table(inner) => {
                found.extend(inner.keys().map(|key| Line { path: format!("{path}.{key}"), active, toml: toml.clone() }));
            }
            _ => found.push(Line { path, active, toml }),
        }
    }
    found
}

#[test]
fn every_key_stands_in_the_manual_once() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines() {
        *count.entry(line.path).or_default() += 1;
    }
    for path in keys::paths() {
        assert_eq!(count.remove(&path), Some(1), "{path}");
    }
    assert_eq!(count.into_keys().collect::<Vec<_>>(), Vec::<String>::new(), "keys that the table lacks");
}

#[test]
fn what_is_commented_out_is_the_default() {
    let (defaults, problems) = Raw::read(None, [], &[]);
    assert_eq!(problems, []);
    for line in lines().into_iter().filter(|line| !line.active) {
        let (raw, problems) = Raw::read(Some(("manual", &line.toml)), [], &[]);
        assert_eq!(problems, [], "{}", line.toml);
        let written = raw.get(&line.path).map(|entry| &entry.value);
        assert!(written.is_some_and(|value| *value != Value::Unusable), "{}", line.toml);
        let (key, _) = keys::find(&line.path).expect("checked by the test above");
        if key.kind != Kind::Secret {
            assert_eq!(written, defaults.get(&line.path).map(|entry| &entry.value), "{}", line.toml);
        }
    }
}

#[test]
fn required_keys_are_active_and_optional_ones_are_not() {
    for line in lines() {
        let (key, file) = keys::find(&line.path).expect("checked by a test above");
        // The example goes by forward_auth, and takes its secret from a file.
        let expected = match key.preset {
            Preset::Required => !key.is_secret() || file,
            _ => key.path == "identity.forward_auth.url",
        };
        assert_eq!(line.active, expected, "{}", line.path);
    }
}

#[test]
fn the_manual_is_a_configuration_that_loads() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "example\n").unwrap();
    let path = format!("auth_token_file = {}", toml_string(token.to_str().unwrap()));
    let text = MANUAL.replace("auth_token_file = \"/run/secrets/rocketchat-token\"", &path);
    let loaded = load(Some(("proxy.toml", &text)), [], &[]).unwrap();
    assert_eq!(loaded.config.cache.tokens.capacity, 100_000);
    assert_eq!(loaded.config.login.token_paths, ["/_gantry/token"]);
    assert!(loaded.config.server.workers > 0);
    assert!(print::print(&loaded).contains("\nurl = \"http://127.0.0.1:3000\" # proxy.toml line "));
}

fn toml_string(text: &str) -> String {
    super::raw::quote(text)
}

#[test]
fn the_shortest_example_at_the_top_loads() {
    let indented = MANUAL.lines().filter_map(|line| line.strip_prefix("#     "));
    let text = indented.collect::<Vec<_>>().join("\n");
    let inline = [("GANTRY_ROCKETCHAT__AUTH_TOKEN".to_owned(), "example".to_owned())];
    let loaded = load(Some(("proxy.toml", &text)), inline, &[]).unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(loaded.config.framing.allowed_ancestors.len() == 1);
}

#[test]
fn the_file_reader_knows_the_manual() {
    // Catches a manual that is no TOML at all with a plain message.
    let layer = file::read("proxy.toml", MANUAL);
    assert!(!format!("{layer:?}").contains("is not TOML"));
}
