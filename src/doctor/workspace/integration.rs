//! `Iframe_Integration_*`: messages between the host app's page and the chat. The web client splits
//! `Iframe_Integration_receive_origin` at commas, trims nothing, and compares exactly
//! (`m/client/views/root/hooks/useIframeCommands.ts`).

use serde_json::json;

use super::settings::Settings;
use super::{mend, origins};
use crate::config::Config;
use crate::doctor::{Finding, SettingWrite};

const RECEIVE: &str = "Iframe_Integration_receive_enable";
const RECEIVE_ORIGIN: &str = "Iframe_Integration_receive_origin";
const SEND: &str = "Iframe_Integration_send_enable";
const SEND_ORIGIN: &str = "Iframe_Integration_send_target_origin";

/// Origins before switches: nothing is switched on towards everybody.
pub(super) fn checks(config: &Config, settings: &Settings) -> Vec<Finding> {
    let app = origins::framing(config);
    let framed = !config.framing.allowed_ancestors.is_empty();
    vec![
        receive_origin(&app, settings),
        switch(&app, framed, settings, "integration.receive", RECEIVE, "your page cannot tell the chat to sign out or to open a room"),
        send_origin(&app, settings),
        switch(&app, framed, settings, "integration.send", SEND, "your page does not hear of unread messages and the like"),
    ]
}

const NOBODY: &str = "framing.allowed_ancestors names no exact origin, so there is no page to talk to";

fn switch(app: &[&str], framed: bool, settings: &Settings, check: &'static str, id: &'static str, without: &str) -> Finding {
    match settings.on(id) {
        None => settings.skip(check, id),
        Some(true) => Finding::good(check, format!("{id} is on")),
        Some(false) if !framed => Finding::skipped(check, "framing.allowed_ancestors is empty, so there is no page to talk to"),
        Some(false) => {
            let finding = mend(Finding::warning(check, format!("{id} is off: {without}"), ""), id, json!(true));
            // Without one origin that is right, switching on would open it to whatever stands there: a person has to choose.
            let (origin, most) = if id == SEND { (SEND_ORIGIN, 1) } else { (RECEIVE_ORIGIN, usize::MAX) };
            let sure = (1..=most).contains(&app.len()) && settings.get(origin).is_some();
            if sure { finding } else { Finding { write: None, ..finding } }
        }
    }
}

fn receive_origin(app: &[&str], settings: &Settings) -> Finding {
    let check = "integration.receive_origin";
    let Some(value) = settings.text(RECEIVE_ORIGIN) else { return settings.skip(check, RECEIVE_ORIGIN) };
    let off = settings.on(RECEIVE) == Some(false);
    if value == "*" && !app.is_empty() {
        let wanted = json!(app.join(","));
        // While it is off nobody depends on it, so that it may be narrowed.
        if off {
            let seen = format!("{RECEIVE_ORIGIN} is *: once switched on, any page that frames or opened the chat could steer it");
            return mend(Finding::warning(check, seen, ""), RECEIVE_ORIGIN, wanted);
        }
        let seen = format!("{RECEIVE_ORIGIN} is *: any page that frames or opened the chat can steer it and sign it out");
        return Finding::warning(check, seen, super::set(RECEIVE_ORIGIN, &wanted));
    }
    let listed: Vec<&str> = value.split(',').collect();
    // What is meant stays, in the form in which the client compares it.
    let mut wanted: Vec<String> = Vec::new();
    for origin in listed.iter().map(|origin| origin.trim().trim_end_matches('/')).chain(app.iter().copied()) {
        if !origin.is_empty() && !wanted.iter().any(|known| known == origin) {
            wanted.push(origin.to_owned());
        }
    }
    let wanted = json!(wanted.join(","));
    let missing: Vec<&str> = app.iter().copied().filter(|origin| !listed.contains(origin)).collect();
    // One of several may be a portal that only frames the page which talks to the chat.
    let some = missing.len() < app.len();
    let fault = if listed.iter().any(|origin| origin.trim() != *origin) {
        Some((false, "there is a blank beside a comma or at an end, and Rocket.Chat trims none: that origin never matches".to_owned()))
    } else if let Some(origin) = listed.iter().find(|origin| origin.ends_with('/')) {
        Some((false, format!("{origin} ends in a slash, so it never matches")))
    } else {
        (!missing.is_empty()).then(|| (some, format!("{} is missing, which framing.allowed_ancestors names", missing.join(", "))))
    };
    match fault {
        None if app.is_empty() => Finding::skipped(check, NOBODY),
        None => Finding::good(check, format!("{RECEIVE_ORIGIN} is {value}")),
        Some((mild, why)) => {
            let seen = format!("{RECEIVE_ORIGIN} is \"{value}\": {why}");
            // Nothing is heard yet where it is off.
            let finding = if off || mild { Finding::warning(check, seen, "") } else { Finding::bad(check, seen, "") };
            mend(finding, RECEIVE_ORIGIN, wanted)
        }
    }
}

/// The target of a `postMessage`: one origin, or `*`.
fn send_origin(app: &[&str], settings: &Settings) -> Finding {
    let check = "integration.send_target_origin";
    let Some(value) = settings.text(SEND_ORIGIN) else { return settings.skip(check, SEND_ORIGIN) };
    let [first, rest @ ..] = app else { return Finding::skipped(check, NOBODY) };
    let off = settings.on(SEND) == Some(false);
    let target = value.trim_end_matches('/');
    if app.contains(&target) && target.trim() == target {
        let only = if rest.is_empty() { "" } else { "; it takes one origin only, so the other pages hear nothing" };
        return Finding::good(check, format!("{SEND_ORIGIN} is {value}{only}"));
    }
    let wanted = json!(first);
    let fix = super::set(SEND_ORIGIN, &wanted);
    let write = rest.is_empty().then_some(SettingWrite { setting: SEND_ORIGIN, value: wanted });
    if value == "*" {
        let seen = format!("{SEND_ORIGIN} is *: any page that frames the chat reads of new messages");
        // Narrowed by itself only while nobody depends on it.
        return Finding { write: write.filter(|_| off), ..Finding::warning(check, seen, fix) };
    }
    let why = if value.contains([',', ' ']) {
        "it takes one origin without blanks; a browser refuses a list, and no message arrives"
    } else if value.is_empty() {
        "no message arrives"
    } else {
        "it is none of framing.allowed_ancestors, so your page hears nothing"
    };
    let seen = format!("{SEND_ORIGIN} is \"{value}\": {why}");
    let finding = if off { Finding::warning(check, seen, fix) } else { Finding::bad(check, seen, fix) };
    Finding { write, ..finding }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    const APP: &str = "https://app.example.com";

    fn look(ancestors: &str, check: &str, values: &[(&str, Value)]) -> Finding {
        let mut all = vec![(RECEIVE, json!(true)), (RECEIVE_ORIGIN, json!(APP)), (SEND, json!(true)), (SEND_ORIGIN, json!(APP))];
        for (id, value) in values {
            all.iter_mut().filter(|(known, _)| known == id).for_each(|slot| slot.1 = value.clone());
        }
        let findings = checks(&example(&[("framing.allowed_ancestors", ancestors)]), &Settings::of(&all));
        findings.into_iter().find(|finding| finding.check == check).expect("the check")
    }

    #[test]
    fn origins_that_never_match_are_found_and_mended() {
        let two = "https://app.example.com,https://portal.example.com";
        for (listed, verdict, word, wanted) in [
            ("https://app.example.com, https://portal.example.com", Verdict::Bad, "blank", two),
            ("https://app.example.com ,https://portal.example.com", Verdict::Bad, "blank", two),
            ("https://app.example.com/,https://portal.example.com", Verdict::Bad, "slash", two),
            (
                "https://portal.example.com",
                Verdict::Warning,
                "https://app.example.com is missing",
                "https://portal.example.com,https://app.example.com",
            ),
            ("", Verdict::Bad, "missing", two),
            (
                "https://other.example, https://app.example.com",
                Verdict::Bad,
                "blank",
                "https://other.example,https://app.example.com,https://portal.example.com",
            ),
            (two, Verdict::Good, "is", ""),
        ] {
            let finding = look(two, "integration.receive_origin", &[(RECEIVE_ORIGIN, json!(listed))]);
            assert_eq!(finding.verdict, verdict, "{listed}: {finding:?}");
            assert!(finding.seen.contains(word), "{listed}: {}", finding.seen);
            assert_eq!(finding.write.map(|write| write.value), (verdict != Verdict::Good).then(|| json!(wanted)), "{listed}");
        }
    }

    #[test]
    fn a_star_is_narrowed_only_while_nobody_depends_on_it() {
        for (check, switch, id) in
            [("integration.receive_origin", RECEIVE, RECEIVE_ORIGIN), ("integration.send_target_origin", SEND, SEND_ORIGIN)]
        {
            for (on, written) in [(true, None), (false, Some(json!(APP)))] {
                let finding = look(APP, check, &[(switch, json!(on)), (id, json!("*"))]);
                assert_eq!((finding.verdict, finding.write.map(|write| write.value)), (Verdict::Warning, written), "{check} {on}");
                assert!(finding.fix.contains(&format!("OVERWRITE_SETTING_{id}={APP}")), "{}", finding.fix);
            }
        }
    }

    #[test]
    fn the_target_is_one_origin() {
        for (value, verdict, word) in [
            (APP, Verdict::Good, "is"),
            ("https://app.example.com/", Verdict::Good, "is"),
            ("https://app.example.com,https://portal.example.com", Verdict::Bad, "one origin"),
            ("https://other.example", Verdict::Bad, "allowed_ancestors"),
            ("", Verdict::Bad, "no message"),
        ] {
            let finding = look(APP, "integration.send_target_origin", &[(SEND_ORIGIN, json!(value))]);
            assert_eq!(finding.verdict, verdict, "{value}: {finding:?}");
            assert!(finding.seen.contains(word), "{value}: {}", finding.seen);
        }
        let several = look(
            "https://a.example,https://b.example",
            "integration.send_target_origin",
            &[(SEND_ORIGIN, json!("*")), (SEND, json!(false))],
        );
        assert!(several.write.is_none(), "which of the two is for a person to say: {several:?}");
    }

    #[test]
    fn switches_that_are_off_are_written_where_there_is_a_page() {
        let finding = look(APP, "integration.receive", &[(RECEIVE, json!(false))]);
        assert!(finding.verdict == Verdict::Warning && finding.fix.contains("OVERWRITE_SETTING_Iframe_Integration_receive_enable=true"));
        assert!(finding.write.is_some());
        for (ancestors, verdict) in [("", Verdict::Skipped), ("https://*.example.com", Verdict::Warning)] {
            let finding = look(ancestors, "integration.receive", &[(RECEIVE, json!(false))]);
            assert_eq!((finding.verdict, finding.write), (verdict, None), "{ancestors}");
            // What never matches is wrong whoever is meant.
            let finding = look(ancestors, "integration.receive_origin", &[(RECEIVE_ORIGIN, json!("https://a.example, https://b.example"))]);
            assert!(finding.verdict == Verdict::Bad && finding.fix.contains("=https://a.example,https://b.example"), "{finding:?}");
            let finding = look(ancestors, "integration.receive_origin", &[(RECEIVE_ORIGIN, json!("*"))]);
            assert_eq!(finding.verdict, Verdict::Skipped, "{ancestors}");
        }
    }
}
