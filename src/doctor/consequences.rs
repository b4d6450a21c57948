//! What merely follows from another fault is not named a second time: its fix would lead astray.

use super::{Finding, Verdict};

/// Turns findings that follow from another one into skipped ones. Doing so twice changes nothing.
pub(super) fn settle(findings: &mut [Finding]) {
    let is_bad = |check: &str| findings.iter().any(|finding| finding.check == check && finding.verdict == Verdict::Bad);
    let no_workspace = is_bad("workspace.reachable") || is_bad("workspace.is_rocketchat");
    let bypassed = is_bad("public.gantry");
    let is_away = |check: &str| findings.iter().any(|finding| finding.check == check && finding.verdict == Verdict::Warning);
    let unreachable = is_away("public.reachable");
    let wrong_ancestors = is_bad("framing.ancestors");
    let not_personal = is_bad("account.token_kind");
    let unanswered = is_bad("host_app.who_am_i");
    let refused = findings.iter().find(|finding| finding.check == "host_app.anonymous" && finding.verdict == Verdict::Bad);
    let refused_fix = refused.map(|finding| finding.fix.clone());
    for finding in findings.iter_mut().filter(|finding| matches!(finding.verdict, Verdict::Bad | Verdict::Warning)) {
        let why = match finding.check {
            "account.two_factor" if not_personal => "the token has to be made anew anyway, see account.token_kind",
            "websocket" if no_workspace => {
                "the WebSocket is not judged while there is no Rocket.Chat behind it, see the checks of the workspace"
            }
            "websocket" if bypassed => "the WebSocket is not judged while the public address does not lead to Gantry, see public.gantry",
            "certificate.public" if unreachable => "no certificate was seen from here, see public.reachable",
            "framing.answer" if bypassed => "the public page is not judged while it does not come by Gantry, see public.gantry",
            // A list that lacks the host app must not be copied into the workspace.
            "integration.receive_origin" | "integration.send_target_origin" if wrong_ancestors => {
                "not judged while framing.allowed_ancestors, which it is held against, is wrong itself, see framing.ancestors"
            }
            "host_app.claims" if unanswered => "the claims could not be looked at, see host_app.who_am_i",
            "host_app.claims" if refused_fix.as_ref() == Some(&finding.fix) => "the claims could not be looked at, see host_app.anonymous",
            _ => continue,
        };
        *finding = Finding::skipped(finding.check, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_another_fault_is_not_named_again() {
        for (cause, effect) in [
            ("workspace.is_rocketchat", "websocket"),
            ("account.token_kind", "account.two_factor"),
            ("public.gantry", "framing.answer"),
            ("public.gantry", "websocket"),
            ("framing.ancestors", "integration.receive_origin"),
            ("framing.ancestors", "integration.send_target_origin"),
            ("host_app.who_am_i", "host_app.claims"),
        ] {
            let write = super::super::SettingWrite { setting: "x", value: true.into() };
            let mut findings = [Finding::bad(effect, "seen", "a wrong fix").writing(write), Finding::bad(cause, "seen", "fix")];
            settle(&mut findings);
            let [effect, cause] = &findings;
            assert_eq!((effect.verdict, cause.verdict), (Verdict::Skipped, Verdict::Bad), "{effect:?}");
            assert!(effect.fix.is_empty() && effect.write.is_none() && effect.seen.contains("see "), "{effect:?}");
            let mut alone = [Finding::bad(effect.check, "seen", "fix"), Finding::good(cause.check, "seen")];
            settle(&mut alone);
            assert_eq!(alone[0].verdict, Verdict::Bad, "{alone:?}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_reached_is_named_once() {
        let away = Finding::warning("public.reachable", "seen", "fix");
        let mut findings = [away, Finding::warning("certificate.public", "no handshake", "the same fix")];
        settle(&mut findings);
        assert_eq!(findings[0].verdict, Verdict::Warning);
        assert_eq!(findings[1].verdict, Verdict::Skipped);
    }

    #[test]
    fn claims_are_judged_unless_both_looks_met_the_same() {
        let anonymous = Finding::bad("host_app.anonymous", "seen", "answer 401 without a session");
        let mut apart = [anonymous.clone(), Finding::bad("host_app.claims", "seen", "[identity.claims] id = \"/id\"")];
        settle(&mut apart);
        assert_eq!(apart[1].verdict, Verdict::Bad);
        let mut same = [anonymous.clone(), Finding::bad("host_app.claims", "seen", anonymous.fix.clone())];
        settle(&mut same);
        assert_eq!(same[1].verdict, Verdict::Skipped);
    }
}
