//! What the workspace's version means here. Which version does what is in README's compatibility table.

use crate::config::{Config, MatchBy};
use crate::doctor::Finding;
use crate::rocketchat::Version;

pub(super) const CHECK: &str = "workspace.version";

/// The first that `users.createToken` was read for.
const OLDEST: Version = Version::new(6, 0);
/// Known from release candidates only.
const CANDIDATE: Version = Version::new(9, 0);

pub(super) fn check(config: &Config, text: &str) -> Finding {
    let Some(version) = Version::parse(text) else {
        return Finding::warning(
            CHECK,
            format!("Rocket.Chat calls its version \"{text}\", which says nothing; Gantry finds out by trying"),
            "Run a released version, 6.x or later.",
        );
    };
    let seen = format!("Rocket.Chat {text}: {}", meaning(version));
    let patch: Option<u32> = text.split(['.', '-']).nth(2).and_then(|patch| patch.parse().ok());
    if version < OLDEST {
        return Finding::warning(
            CHECK,
            format!("{seen}; older than anything that Gantry was written for"),
            "Upgrade Rocket.Chat to 6.x or later.",
        );
    }
    if config.users.match_by.contains(&MatchBy::Email) && version.major == 7 {
        return Finding::warning(
            CHECK,
            format!("{seen}; 7.x finds nobody by e-mail, which users.match_by asks for"),
            "In Rocket.Chat's environment: ALLOW_UNSAFE_QUERY_AND_FIELDS_API_PARAMS=true\nor upgrade it to 8.x\nor, in [users] of proxy.toml: match_by = [\"username\"]",
        );
    }
    if (Version::new(7, 8)..Version::new(7, 10)).contains(&version) && !(version.minor == 9 && patch.is_some_and(|patch| patch >= 4)) {
        return Finding::warning(
            CHECK,
            format!("{seen}; 7.8 to 7.9.3: after a failed login the web client shows its own form instead of the loading page"),
            "Upgrade Rocket.Chat to 7.10 or later (7.9.4 mends it too).",
        );
    }
    if lacks_permission_check(version, patch) {
        let which = if patch.is_none() { " (unless it is 8.3.7, 8.5.2 or a later patch of those; the third part is not told)" } else { "" };
        let tokens = if version == Version::new(8, 5) {
            ", and 8.5 may refuse a token made with \"ignore two factor\" where a second factor is wanted"
        } else {
            ""
        };
        return Finding::warning(
            CHECK,
            format!("{seen}; whoever knows the secret may sign in as anybody, with any account, if they get around Gantry{tokens}{which}"),
            "Upgrade Rocket.Chat to 8.6 or later (8.3.7 and 8.5.2 mend it too). Keep its port reachable for Gantry only.",
        );
    }
    if version >= CANDIDATE {
        return Finding::warning(
            CHECK,
            format!("{seen}; 9.0 is known here from its release candidates only"),
            "Try the sign-in on a copy of your workspace before you rely on it.",
        );
    }
    Finding::good(CHECK, seen)
}

/// Whether `users.createToken` asks for the secret and for no permission: 8.0 up to #40768 and its backports.
fn lacks_permission_check(version: Version, patch: Option<u32>) -> bool {
    match (version.major, version.minor) {
        (8, 3) => patch.is_none_or(|patch| patch < 7),
        (8, 5) => patch.is_none_or(|patch| patch < 2),
        (8, minor) => minor < 5,
        _ => false,
    }
}

/// Whether minting for others needs `user-generate-access-token`, for sure.
pub(super) fn checks_permission(version: Option<Version>) -> bool {
    version.is_none_or(|version| !lacks_permission_check(version, None))
}

fn meaning(version: Version) -> &'static str {
    if version >= Version::INFO_BY_EMAIL {
        "createToken wants the secret of CREATE_TOKENS_FOR_USERS_SECRET; accounts are found by username or e-mail"
    } else if version >= Version::SECRET_IN_BODY {
        "createToken wants the secret of CREATE_TOKENS_FOR_USERS_SECRET; look-up by e-mail needs the permission view-d-room"
    } else {
        "createToken wants CREATE_TOKENS_FOR_USERS=true in Rocket.Chat's environment, and no secret"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    #[test]
    fn every_version_has_its_words() {
        for (text, verdict, word) in [
            ("8.8", Verdict::Good, "CREATE_TOKENS_FOR_USERS_SECRET"),
            ("8.6.1", Verdict::Good, "secret"),
            ("8.5", Verdict::Warning, "ignore two factor"),
            ("8.5.2", Verdict::Good, "secret"),
            ("8.4.9", Verdict::Warning, "anybody"),
            ("8.3.7", Verdict::Good, "view-d-room"),
            ("8.3.6", Verdict::Warning, "anybody"),
            ("8.3", Verdict::Warning, "8.3.7"),
            ("8.0.0", Verdict::Warning, "anybody"),
            ("7.13", Verdict::Good, "CREATE_TOKENS_FOR_USERS=true"),
            ("7.9", Verdict::Warning, "7.9.3"),
            ("7.9.4", Verdict::Good, "no secret"),
            ("7.8.2", Verdict::Warning, "7.9.3"),
            ("6.13.1", Verdict::Good, "no secret"),
            ("5.4", Verdict::Warning, "older"),
            ("9.0.0-rc.8", Verdict::Warning, "candidates"),
            ("develop", Verdict::Warning, "develop"),
        ] {
            let finding = check(&example(&[]), text);
            assert_eq!(finding.verdict, verdict, "{text}: {finding:?}");
            assert!(finding.seen.contains(word), "{text}: {finding:?}");
            assert_eq!(finding.fix.is_empty(), verdict == Verdict::Good, "{text}");
        }
        let finding = check(&example(&[("users.match_by", "username,email")]), "7.13");
        assert!(
            finding.verdict == Verdict::Warning && finding.fix.contains("ALLOW_UNSAFE_QUERY_AND_FIELDS_API_PARAMS=true"),
            "{finding:?}"
        );
    }

    #[test]
    fn the_permission_is_sure_to_be_asked_for_outside_of_the_gap() {
        for (version, sure) in [((7, 13), true), ((8, 0), false), ((8, 5), false), ((8, 6), true), ((9, 0), true)] {
            assert_eq!(checks_permission(Some(Version::new(version.0, version.1))), sure, "{version:?}");
        }
        assert!(checks_permission(None));
    }
}
