//! What `--fix` writes: settings of the workspace, over REST, in the order of the findings.

use serde_json::{Value, json};

use super::workspace::{self, Settings};
use super::{Context, Finding, Verdict};
use crate::rocketchat::{Client, Trouble};

/// One setting that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    setting: &'static str,
    old: Value,
    new: Value,
}

impl Change {
    /// A setting that becomes `new`.
    pub(super) fn new(setting: &'static str, old: Value, new: Value) -> Self {
        Self { setting, old, new }
    }
}

/// What is to be written, and what had better not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    checks: Vec<&'static str>,
    /// In words.
    pub(super) held_back: Vec<String>,
}

/// Switching the iframe login on takes the stock login form away from everybody, administrators included.
pub(super) const SWITCH: &str = "Accounts_iframe_enabled";
/// Groups of checks without which nobody could sign in by it.
const NEEDED: [&str; 3] = ["account.", "permissions.", "minting."];

/// What the findings want written; old values are read anew.
pub(super) async fn plan(context: &Context, findings: &[Finding]) -> Plan {
    let settings = Settings::read(&context.client, true).await;
    plan_from(findings, &settings)
}

fn plan_from(findings: &[Finding], settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    let blocker =
        findings.iter().find(|finding| finding.verdict == Verdict::Bad && NEEDED.iter().any(|group| finding.check.starts_with(group)));
    for (check, write) in findings.iter().filter_map(|finding| Some((finding.check, finding.write.as_ref()?))) {
        let old = settings.get(write.setting).cloned().unwrap_or_default();
        if let Some(blocker) = blocker.filter(|_| write.setting == SWITCH) {
            plan.held_back.push(format!("{SWITCH} stays off: nobody could sign in while {} fails", blocker.check));
        } else if old != write.value {
            plan.checks.push(check);
            plan.changes.push(Change::new(write.setting, old, write.value.clone()));
        }
    }
    plan
}

impl Plan {
    /// Whether a finding is about a setting of this plan, by its check.
    pub(super) fn is_about(&self, finding: &Finding) -> bool {
        self.checks.contains(&finding.check)
    }

    /// One line a setting: old and new.
    pub(super) fn text(&self) -> String {
        let show = |value: &Value| match value {
            Value::String(text) if text.is_empty() => "(empty)".to_owned(),
            Value::Null => "(not shown)".to_owned(),
            other => workspace::shown(other),
        };
        let changes = self.changes.iter().map(|change| format!("  {}: {} → {}", change.setting, show(&change.old), show(&change.new)));
        let held = self.held_back.iter().map(|why| format!("  {why}"));
        changes.chain(held).collect::<Vec<_>>().join("\n")
    }
}

/// What became of a plan.
#[derive(Clone, Debug)]
pub(super) struct Written {
    done: Vec<Change>,
    /// The one that failed, why, and what was left undone after it.
    failed: Option<(Change, Trouble, Vec<Change>)>,
}

/// Writes until something fails: what comes later may rely on what comes before.
pub(super) async fn write(client: &Client, changes: &[Change]) -> Written {
    let mut done = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        match client.write_setting(change.setting, &change.new).await {
            Ok(()) => done.push(change.clone()),
            Err(trouble) => {
                let failed = Some((change.clone(), trouble, changes[index + 1..].to_vec()));
                return Written { done, failed };
            }
        }
    }
    Written { done, failed: None }
}

impl Written {
    /// What was written, what was not, and how it is written otherwise.
    pub(super) fn text(&self) -> String {
        let mut lines: Vec<String> = self.done.iter().map(|change| format!("  written  {}", change.setting)).collect();
        if !self.done.is_empty() {
            lines.push(
                "  A variable OVERWRITE_SETTING_… in Rocket.Chat's environment wins again at its next start: change it there too.".into(),
            );
        }
        if let Some((change, trouble, rest)) = &self.failed {
            lines.push(format!("  FAILED   {}: {}", change.setting, reason(trouble)));
            lines.push("  Nothing after it was written. In Rocket.Chat's environment, before its next start:".into());
            lines.extend(
                std::iter::once(change).chain(rest).map(|c| format!("    OVERWRITE_SETTING_{}={}", c.setting, workspace::shown(&c.new))),
            );
        }
        lines.join("\n")
    }

    /// The same for `--json`.
    pub(super) fn json(&self) -> Value {
        let one = |change: &Change| json!({ "setting": change.setting, "old": change.old, "new": change.new });
        let done = self.done.iter().map(|change| {
            let mut shown = one(change);
            shown["written"] = true.into();
            shown
        });
        let failed = self.failed.iter().flat_map(|(change, trouble, rest)| {
            let why = reason(trouble);
            std::iter::once((change, why)).chain(rest.iter().map(|change| (change, "not tried, since one before it failed".to_owned())))
        });
        let failed = failed.map(|(change, why)| {
            let mut shown = one(change);
            shown["written"] = false.into();
            shown["why"] = why.into();
            shown
        });
        done.chain(failed).collect()
    }

    /// Why something could not be written.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.failed.as_ref().map(|(_, trouble, _)| trouble)
    }

    /// Whether something could not be written.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }
}

/// Why a setting could not be written, and what to do.
pub(super) fn reason(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Forbidden => {
            "the service account lacks the permission edit-privileged-setting (give it for as long as you need it)".into()
        }
        Trouble::TwoFactor => {
            "Rocket.Chat wants a second factor: rocketchat.auth_token has to be a personal access token made with \"Ignore Two Factor \
             Authentication\""
                .into()
        }
        Trouble::Absent => {
            "Rocket.Chat does not let it be changed over REST: is it in SETTINGS_BLOCKED or SETTINGS_HIDDEN of its environment?".into()
        }
        other => other.to_string(),
    }
}

/// Looks at the settings again and puts what it sees in the place of what was seen before.
pub(super) async fn look_again(context: &Context, findings: &mut [Finding]) {
    let settings = Settings::read(&context.client, true).await;
    for again in workspace::settings_checks(&context.config, &settings) {
        if let Some(slot) = findings.iter_mut().find(|finding| finding.check == again.check) {
            *slot = again;
        }
    }
    super::consequences::settle(findings);
}

#[cfg(test)]
mod tests {
    use super::super::SettingWrite;
    use super::*;

    fn findings() -> Vec<Finding> {
        let write = |setting, value| SettingWrite { setting, value };
        vec![
            Finding::good("minting.create_token", "works"),
            Finding::bad("iframe.url", "empty", "").writing(write("Accounts_iframe_url", json!("https://chat/_gantry/login"))),
            Finding::bad("iframe.enabled", "off", "").writing(write(SWITCH, json!(true))),
        ]
    }

    fn settings() -> Settings {
        Settings::of(&[("Accounts_iframe_url", json!("")), (SWITCH, json!(false))])
    }

    #[test]
    fn the_plan_shows_old_and_new() {
        let plan = plan_from(&findings(), &settings());
        assert_eq!(plan.text(), "  Accounts_iframe_url: (empty) → https://chat/_gantry/login\n  Accounts_iframe_enabled: false → true");
    }

    #[test]
    fn the_login_form_is_not_taken_away_while_nobody_could_sign_in() {
        let mut findings = findings();
        findings[0] = Finding::bad("minting.create_token", "off", "");
        let plan = plan_from(&findings, &settings());
        assert_eq!(plan.changes.len(), 1);
        assert!(plan.held_back[0].contains("minting.create_token"), "{plan:?}");
    }

    #[test]
    fn what_could_not_be_written_is_told_with_its_variable() {
        let plan = plan_from(&findings(), &settings());
        let [first, second] = plan.changes.as_slice() else { panic!("{plan:?}") };
        let written = Written { done: vec![], failed: Some((first.clone(), Trouble::Forbidden, vec![second.clone()])) };
        let text = written.text();
        for word in [
            "edit-privileged-setting",
            "OVERWRITE_SETTING_Accounts_iframe_url=https://chat/_gantry/login",
            "OVERWRITE_SETTING_Accounts_iframe_enabled=true",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(written.json()[1]["written"], json!(false));
    }
}
