//! Findings as lines for people, and as one JSON object.

use std::fmt::Write;

use serde_json::{Value, json};

use super::workspace::{IS_ROCKETCHAT, REACHABLE};
use super::{Finding, Verdict};

/// All is well, warnings included.
const WELL: u8 = 0;
/// Something keeps people from signing in, or is unsafe.
const FAILED: u8 = 1;
/// The workspace cannot be asked at all (`EX_UNAVAILABLE` of sysexits.h).
const UNUSABLE: u8 = 69;

/// Groups of checks, by what stands before the dot of their names; others go by that name.
const TITLES: [(&str, &str); 20] = [
    ("workspace", "Rocket.Chat"),
    ("account", "Service account"),
    ("permissions", "Permissions of the service account"),
    ("minting", "Login tokens"),
    ("iframe", "Iframe login"),
    ("integration", "Messages between the host app's page and the chat"),
    ("settings", "Settings of the workspace"),
    ("users", "Accounts"),
    ("public", "Public address"),
    ("certificate", "Certificates"),
    ("websocket", "WebSocket"),
    ("framing", "Framing"),
    ("host_app", "Host app"),
    ("jwt", "Tokens of the host app"),
    ("header", "Identity headers"),
    ("site", "One site or two"),
    ("cookie", "Session cookie"),
    ("cors", "Callback from other origins"),
    ("forwarded", "Client addresses"),
    ("clock", "Clocks"),
];

/// How many findings came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    good: usize,
    warning: usize,
    bad: usize,
    skipped: usize,
}

impl Tally {
    fn of(findings: &[Finding]) -> Self {
        let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        Self { good: count(Verdict::Good), warning: count(Verdict::Warning), bad: count(Verdict::Bad), skipped: count(Verdict::Skipped) }
    }
}

/// The exit code that the findings come to.
pub(super) fn exit_code(findings: &[Finding]) -> u8 {
    let mut worst = WELL;
    for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Bad) {
        worst = worst.max(if [REACHABLE, IS_ROCKETCHAT].contains(&finding.check) { UNUSABLE } else { FAILED });
    }
    worst
}

/// What to do first: findings come in the order in which one thing depends on another.
fn first(findings: &[Finding]) -> Option<&Finding> {
    let worst = |verdict| findings.iter().find(|finding| finding.verdict == verdict);
    worst(Verdict::Bad).or_else(|| worst(Verdict::Warning))
}

fn group(check: &str) -> &str {
    check.split('.').next().unwrap_or(check)
}

/// One line a check, below it what mends it. What could not be looked at for one reason in several groups stands
/// together at the end.
pub(super) fn text(findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let shared: Vec<&str> = shared_reasons(findings);
    let is_shared = |finding: &Finding| finding.verdict == Verdict::Skipped && shared.contains(&finding.seen.as_str());
    let mut text = String::new();
    let mut title = "";
    for finding in findings.iter().filter(|finding| !is_shared(finding)) {
        let own = group(finding.check);
        if own != title {
            title = own;
            let known = TITLES.iter().find(|(name, _)| *name == own).map(|(_, title)| (*title).to_owned());
            head(&mut text, &known.unwrap_or_else(|| capital(own)));
        }
        line(&mut text, &format!("  {}  {:width$}  {}", badge(finding.verdict, colour), finding.check, one_line(&finding.seen)));
        for fix in finding.fix.lines() {
            line(&mut text, &format!("        {}", one_line(fix)));
        }
    }
    if !shared.is_empty() {
        head(&mut text, "Not looked at");
    }
    for reason in shared {
        let mut groups: Vec<(&str, usize)> = Vec::new();
        for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Skipped && finding.seen == reason) {
            match groups.iter_mut().find(|(name, _)| *name == group(finding.check)) {
                Some((_, count)) => *count += 1,
                None => groups.push((group(finding.check), 1)),
            }
        }
        let groups: Vec<String> = groups.into_iter().map(|(name, count)| format!("{name}.* ({count})")).collect();
        line(&mut text, &format!("  {}  {}: {}", badge(Verdict::Skipped, colour), one_line(reason), groups.join(", ")));
    }
    text
}

/// Reasons for which checks of more than one group were skipped, in order.
fn shared_reasons(findings: &[Finding]) -> Vec<&str> {
    let skipped = || findings.iter().filter(|finding| finding.verdict == Verdict::Skipped);
    let mut reasons: Vec<&str> = Vec::new();
    for finding in skipped() {
        let elsewhere = skipped().any(|other| other.seen == finding.seen && group(other.check) != group(finding.check));
        if elsewhere && !reasons.contains(&finding.seen.as_str()) {
            reasons.push(&finding.seen);
        }
    }
    reasons
}

fn head(text: &mut String, title: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    line(text, title);
}

fn line(text: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// What others sent stays on its line, and cannot steer the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn capital(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn badge(verdict: Verdict, colour: bool) -> String {
    let (word, code) = match verdict {
        Verdict::Good => ("ok  ", 32),
        Verdict::Warning => ("warn", 33),
        Verdict::Bad => ("FAIL", 31),
        Verdict::Skipped => ("skip", 2),
    };
    if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// What it all comes to, and what to do first.
pub(super) fn summary(findings: &[Finding]) -> String {
    let Tally { good, warning, bad, skipped } = Tally::of(findings);
    let warnings = if warning == 1 { "1 warning".to_owned() } else { format!("{warning} warnings") };
    let failures = if bad == 1 { "1 failure".to_owned() } else { format!("{bad} failures") };
    let mut text = format!("{good} ok, {warnings}, {failures}, {skipped} skipped.");
    if let Some(first) = first(findings) {
        let begin = if bad > 0 { "First" } else { "If you like" };
        let fix = first.fix.lines().next().unwrap_or(&first.seen);
        text = format!("{text} {begin}, {}: {fix}", first.check);
    }
    text
}

/// Everything as one object.
pub(super) fn json(findings: &[Finding], written: Option<Value>) -> Value {
    let Tally { good, warning, bad, skipped } = Tally::of(findings);
    let mut report = json!({
        "gantry": env!("CARGO_PKG_VERSION"),
        "findings": findings,
        "summary": {
            "good": good, "warning": warning, "bad": bad, "skipped": skipped,
            "first": first(findings).map(|finding| finding.check), "exit_code": exit_code(findings),
        },
    });
    if let Some(written) = written {
        report["written"] = written;
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::good(REACHABLE, "http://x/ answers"),
            Finding::warning("workspace.version", "old\x1b[2J", "Upgrade."),
            Finding::skipped("account.login", "no way in"),
            Finding::skipped("iframe.url", "no way in"),
            Finding::skipped("iframe.api_url", "no way in"),
            Finding::bad("iframe.enabled", "off", "switch it on\nor so"),
            Finding::good("host_app.who_am_i", "answers"),
        ]
    }

    #[test]
    fn a_line_a_check_with_what_mends_it_below() {
        let expected = "\
Rocket.Chat
  ok    workspace.reachable  http://x/ answers
  warn  workspace.version    old [2J
        Upgrade.

Iframe login
  FAIL  iframe.enabled       off
        switch it on
        or so

Host app
  ok    host_app.who_am_i    answers

Not looked at
  skip  no way in: account.* (1), iframe.* (2)
";
        assert_eq!(text(&findings(), false), expected);
        assert!(text(&findings(), true).contains("\x1b[31mFAIL\x1b[0m"));
        assert_eq!(summary(&findings()), "2 ok, 1 warning, 1 failure, 3 skipped. First, iframe.enabled: switch it on");
    }

    #[test]
    fn the_exit_code_tells_a_workspace_from_its_settings() {
        let all = findings();
        assert_eq!(exit_code(&all[..5]), 0, "warnings are well");
        assert_eq!(exit_code(&all), 1);
        let dead = [Finding::bad(REACHABLE, "refused", "start it"), all[5].clone()];
        assert_eq!(exit_code(&dead), 69);
        assert_eq!(exit_code(&[]), 0);
    }

    #[test]
    fn the_object_has_every_finding_and_the_summary() {
        let report = json(&findings(), None);
        assert_eq!(report["findings"].as_array().map(Vec::len), Some(7));
        assert_eq!(report["findings"][5]["verdict"], "bad");
        assert_eq!(report["summary"], json!({"good": 2, "warning": 1, "bad": 1, "skipped": 3, "first": "iframe.enabled", "exit_code": 1}));
        assert!(report.get("written").is_none());
    }
}
