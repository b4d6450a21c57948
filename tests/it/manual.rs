//! Holds README.md to the code: its configurations load, and whatever it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, SystemTime};

use gantry::config::{self, Loaded, keys};
use gantry::error::RefusalKind;
use gantry::metrics::{Metrics, RouteLabel};

const README: &str = include_str!("../../README.md");
const CHANGELOG: &str = include_str!("../../CHANGELOG.md");

/// Longer than any secret has to be.
const SECRET: &str = "an-example-of-a-secret-of-32-characters-and-more";

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in README.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) => open = Some((name == language, String::new())),
            (Some(_), Some(_)) => {
                if let Some((true, text)) = open.take() {
                    found.push(text);
                }
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is left open");
    found
}

/// What stands between single backticks, outside of fenced blocks.
fn spans() -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in README.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            assert!(line.matches('`').count().is_multiple_of(2), "a span goes over the end of a line: {line}");
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The rows of the table with this first heading, as cells without backticks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect::<Vec<_>>();
    let start = README.lines().position(|line| line.starts_with(heading)).unwrap_or_else(|| panic!("no table {heading}"));
    README.lines().skip(start + 2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Loads a configuration, with a file of its own for each secret that it takes from one.
fn load(text: &str) -> Loaded {
    // Readable for nobody else, or there is a warning.
    let secret = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secret.path(), SECRET).expect("a temporary file");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pair = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]).expect("a certificate");
    let [cert, key] = [("tls.crt", pair.cert.pem()), ("tls.key", pair.signing_key.serialize_pem())].map(|(name, text)| {
        std::fs::write(dir.path().join(name), text).expect("a temporary file");
        dir.path().join(name)
    });
    let stands_in = |line: &str| match line.split_once('=') {
        Some((name, _)) if name.trim() == "cert_file" => format!("{name}= '{}'\n", cert.display()),
        Some((name, _)) if name.trim() == "key_file" => format!("{name}= '{}'\n", key.display()),
        Some((name, _)) if name.trim() == "cert_dir" => format!("{name}= '{}'\n", dir.path().display()),
        Some((name, _)) if name.trim().ends_with("_file") => format!("{name}= '{}'\n", secret.path().display()),
        _ => format!("{line}\n"),
    };
    let whole: String = text.lines().map(stands_in).collect();
    config::load(Some(("README.md", &whole)), [], &[]).unwrap_or_else(|problems| panic!("{problems:#?}\n{whole}"))
}

/// A file's lines by section, in order of first appearance.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        // Behind the name there may be a comment.
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            found.push((name.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = found.last_mut() {
            lines.push(line.to_owned());
        } else {
            panic!("a key without a section: {line}");
        }
    }
    found
}

/// `base` with a part of a file put into it; an identity source takes the other one's place.
fn merged(base: &str, part: &str) -> String {
    let mut whole = sections(base);
    let part = sections(part);
    if part.iter().any(|(name, _)| name == "identity") {
        whole.retain(|(name, _)| !name.starts_with("identity"));
    }
    for (name, lines) in part {
        match whole.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => known.extend(lines),
            None => whole.push((name, lines)),
        }
    }
    whole.iter().fold(String::new(), |text, (name, lines)| format!("{text}[{name}]\n{}\n", lines.join("\n")))
}

#[test]
fn every_configuration_loads_without_a_warning() {
    let whole = blocks("toml");
    assert!(!whole.is_empty());
    for text in &whole {
        assert_eq!(load(text).warnings, [], "{text}");
    }
    let parts: Vec<_> = blocks("text").into_iter().filter(|text| text.starts_with('[')).collect();
    assert!(parts.len() >= 4, "the three sources and the callback's path");
    for part in &parts {
        assert_eq!(load(&merged(&whole[0], part)).warnings, [], "{part}");
    }
}

#[test]
fn every_key_exists() {
    let keys: BTreeSet<&str> = keys::KEYS.iter().map(|key| key.path.split('.').next().unwrap()).collect();
    let mut seen = 0;
    for span in spans() {
        let path = span.split([' ', '=']).next().unwrap_or_default();
        let plain = path.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'));
        let Some((section, _)) = path.split_once('.').filter(|(section, _)| plain && keys.contains(section)) else { continue };
        assert!(keys::find(path).is_some() || keys::is_section(path), "`{path}` of [{section}] is no key");
        seen += 1;
    }
    assert!(seen > 30, "only {seen} keys were looked at");
}

#[test]
fn every_variable_exists() {
    let known: BTreeSet<String> = keys::paths().map(|path| keys::variable(&path)).chain(["GANTRY_CONFIG".to_owned()]).collect();
    for span in spans().into_iter().filter(|span| span.starts_with("GANTRY_")) {
        assert!(known.contains(&span), "{span}");
    }
}

/// Every name in a scrape after everything has happened once.
fn metric_names() -> BTreeSet<String> {
    let metrics = Metrics::new(1);
    metrics.shard(0).answered(RouteLabel::Upstream, 200, Duration::ZERO);
    metrics.login("jwt", None, Duration::ZERO);
    metrics.minted(true);
    metrics.chat_ended("told");
    metrics.user_created(true);
    metrics.cache("users", true);
    metrics.cache_entries("users", 1);
    metrics.api_error("me", "status");
    metrics.api_answered("me", Duration::ZERO);
    metrics.rocketchat_version("8.5");
    metrics.spans("exported", 1);
    metrics.certificates([("tls.crt", SystemTime::now())].into_iter());
    metrics.acme_order(true);
    let scrape = metrics.exposition();
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn every_metric_exists_and_is_told_of() {
    let spans = spans();
    let named = spans
        .iter()
        .filter(|span| span.starts_with("gantry_") || span.starts_with("process_"))
        // The name of a cookie.
        .filter(|span| *span != "gantry_chat")
        .map(|span| span.split([' ', '{']).next().unwrap());
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), metric_names());
}

/// Whether a key is a bound, by its name.
fn is_limit(key: &keys::Key) -> bool {
    let name = key.name();
    let named = ["max_", "jwks_max", "jwks_min", "jwks_timeout"].iter().any(|start| name.starts_with(start)) || name == "timeout";
    key.section() == "limits" || named || name.ends_with("_timeout") || name == "capacity" || name == "tokens_per_user"
}

#[test]
fn every_limit_stands_in_the_table_with_its_default_and_what_counts_it() {
    let metrics = Metrics::new(1);
    metrics.expect_logins("jwt");
    metrics.cache_entries("users", 1);
    let scrape = metrics.exposition();
    let mut told = BTreeSet::new();
    for row in table("| limit | default |") {
        let list = |cell: &str| cell.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let (paths, defaults) = (list(&row[0]), list(&row[1]));
        assert_eq!(paths.len(), defaults.len(), "{row:?}");
        for (path, default) in paths.into_iter().zip(defaults) {
            let (key, _) = keys::find(&path).unwrap_or_else(|| panic!("{path} is no key"));
            let preset = match key.preset {
                keys::Preset::Toml(preset) => preset.trim_matches('"'),
                other => panic!("{path} has no default: {other:?}"),
            };
            assert_eq!(preset, default, "{path}");
            assert!(told.insert(path.clone()), "{path} stands twice");
        }
        for series in list(&row[4]) {
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((&series, ""));
            let counts = |line: &str| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']) && line.contains(labels);
            assert!(scrape.lines().any(counts), "nothing is counted as {series}");
        }
    }
    let known: BTreeSet<String> = keys::KEYS.iter().filter(|key| is_limit(key)).map(|key| key.path.to_owned()).collect();
    assert_eq!(known.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new(), "limits that the table lacks");
}

#[test]
fn every_refusal_stands_in_the_pager_table_with_its_status() {
    let told: BTreeMap<String, String> = table("| status | `error` |").into_iter().map(|row| (row[1].clone(), row[0].clone())).collect();
    let known: BTreeMap<String, String> =
        RefusalKind::ALL.iter().map(|kind| (kind.code().to_owned(), kind.status().as_str().to_owned())).collect();
    assert_eq!(told, known);
}

#[test]
fn every_command_and_flag_exists() {
    // The completions name every subcommand and flag that there is.
    let output = Command::new(env!("CARGO_BIN_EXE_gantry")).args(["completions", "bash"]).output().unwrap();
    let known = String::from_utf8(output.stdout).unwrap();
    let words: BTreeSet<&str> = known.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
    let flag = |word: &str| word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    for span in spans().into_iter().chain(CHANGELOG.split('`').skip(1).step_by(2).map(str::to_owned)) {
        let said: Vec<&str> = span.split_whitespace().collect();
        if let ["gantry", command, ..] = said[..]
            && !command.starts_with('-')
        {
            assert!(words.contains(command), "`{span}`: there is no such command");
        }
        if said.first().is_some_and(|first| *first == "gantry" || flag(first)) {
            for word in said.iter().filter(|word| flag(word)) {
                assert!(words.contains(word), "`{span}`: there is no {word}");
            }
        }
    }
    for line in blocks("sh").iter().flat_map(|text| text.lines()).filter(|line| line.contains(" demo")) {
        assert_eq!(line, "cargo run --release -- demo");
    }
}

#[test]
fn every_setting_of_rocketchat_is_spelled_as_rocketchat_spells_it() {
    // A wrong case is ignored without a word, so the list stands here a second time.
    const KNOWN: [&str; 8] = [
        "Accounts_iframe_enabled",
        "Accounts_iframe_url",
        "Accounts_Iframe_api_url",
        "Accounts_Iframe_api_method",
        "Iframe_Integration_receive_enable",
        "Iframe_Integration_receive_origin",
        "Iframe_Integration_send_enable",
        "Iframe_Integration_send_target_origin",
    ];
    let text = blocks("sh").concat();
    let named = text.lines().filter_map(|line| line.strip_prefix("OVERWRITE_SETTING_")?.split('=').next());
    assert_eq!(named.collect::<Vec<_>>(), KNOWN);
}

#[test]
fn every_link_inside_the_page_leads_somewhere() {
    let anchor = |title: &str| {
        let kept = title.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-'));
        format!("#{}", kept.collect::<String>().to_lowercase().replace(' ', "-"))
    };
    let titles: BTreeSet<String> =
        README.lines().filter(|line| line.starts_with("##")).map(|line| anchor(line.trim_start_matches('#').trim())).collect();
    for target in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| target.starts_with('#')) {
        assert!(titles.contains(target), "{target} of {titles:?}");
    }
}

#[test]
fn every_rung_of_the_ladder_is_in_the_layout() {
    let lib = include_str!("../../src/lib.rs");
    let rungs: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let told: Vec<String> = table("| `src/` |").iter().flat_map(|row| row[0].split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(told, rungs);
}
