//! The clocks around: tokens carry times, and a clock that is off makes good ones look expired or not yet good.

use std::time::Duration;

use http::header::DATE;

use super::look::{Look, Seen};
use super::{bad, good, skipped, warning};
use crate::config::{Config, IdentitySource};
use crate::doctor::Finding;

const CHECK: &str = "clock";

/// `Date` counts whole seconds, and an answer takes a moment.
const COARSE: Duration = Duration::from_secs(2);
/// From here on logs of several machines cannot be read together, and one-time codes fail.
const MUCH: Duration = Duration::from_mins(1);
/// What `leeway` should never make up for.
const TOO_MUCH: Duration = Duration::from_mins(5);

/// A clock against ours.
struct Skew {
    whose: &'static str,
    off: Duration,
    ahead: bool,
}

/// One finding over all clocks that could be seen.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    let clocks = [
        ("the host app", seen.me.as_ref().or(seen.jwks.as_ref())),
        ("the workspace", Some(&seen.info)),
        // Without an answer of the host app itself, its pages will do.
        ("the host app's web server", seen.pages.first().filter(|_| seen.me.is_none() && seen.jwks.is_none())),
    ];
    let skews: Vec<Skew> = clocks.into_iter().filter_map(|(whose, look)| skew(whose, look?)).collect();
    vec![judge(config, &skews)]
}

fn skew(whose: &'static str, look: &Look) -> Option<Skew> {
    let theirs = httpdate::parse_http_date(look.header(&DATE)?).ok()?;
    // The server wrote the header somewhere within the call.
    let ours = look.at.checked_sub(look.took / 2)?;
    let (off, ahead) = match theirs.duration_since(ours) {
        Ok(ahead) => (ahead, true),
        Err(error) => (error.duration(), false),
    };
    Some(Skew { whose, off: off.saturating_sub(look.took / 2).saturating_sub(COARSE), ahead })
}

fn judge(config: &Config, skews: &[Skew]) -> Finding {
    let Some(worst) = skews.iter().max_by_key(|skew| skew.off) else {
        return skipped(CHECK, "no answer carried a Date header, so that clocks could not be compared");
    };
    let leeway = match &config.identity.source {
        IdentitySource::Jwt(jwt) => Some(jwt.leeway),
        IdentitySource::ForwardAuth(_) | IdentitySource::Header(_) => None,
    };
    let limit = leeway.unwrap_or(MUCH);
    if worst.off <= limit {
        let whose: Vec<&str> = skews.iter().map(|skew| skew.whose).collect();
        return good(CHECK, format!("this machine's clock agrees with {} (within {})", whose.join(" and "), words(worst.off.max(COARSE))));
    }
    let ours = skews.iter().all(|skew| skew.off > limit && skew.ahead == worst.ahead) && skews.len() > 1;
    let direction = |ahead| if ahead { "ahead" } else { "behind" };
    let seen = if ours {
        format!("this machine's clock is {} {} all others", words(worst.off), direction(!worst.ahead))
    } else {
        format!("the clock of {} is {} {} this machine's", worst.whose, words(worst.off), direction(worst.ahead))
    };
    let machine = if ours { "here" } else { "on the machine that is wrong" };
    let sync = format!("set the clock {machine}: timedatectl set-ntp true (or chronyc makestep)");
    match leeway {
        Some(leeway) => {
            let seen = format!("{seen}; identity.jwt.leeway forgives {}, so tokens are refused", words(leeway));
            let fix = if worst.off <= TOO_MUCH {
                format!("{sync}; until then [identity.jwt] leeway = \"{}\"", words(Duration::from_secs(worst.off.as_secs() + 10)))
            } else {
                sync
            };
            bad(CHECK, seen, fix)
        }
        None => warning(CHECK, seen, sync),
    }
}

fn words(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    fn skewed(whose: &'static str, seconds: i64) -> Skew {
        Skew { whose, off: Duration::from_secs(seconds.unsigned_abs()), ahead: seconds > 0 }
    }

    #[test]
    fn skew_matters_by_the_source() {
        let jwt = config::example(&[
            ("identity.source", "jwt"),
            ("identity.header.id", ""),
            ("identity.jwt.cookie", "session"),
            ("identity.jwt.jwks_url", "https://app.example.com/jwks"),
            ("identity.jwt.algorithms", "RS256"),
        ]);
        let header = config::example(&[]);
        for (config, skews, verdict, seen, fix) in [
            (&jwt, vec![skewed("the host app", 5)], Verdict::Good, "agrees with the host app", ""),
            (
                &jwt,
                vec![skewed("the host app", 50), skewed("the workspace", 1)],
                Verdict::Bad,
                "the host app is 50s ahead",
                "leeway = \"1m\"",
            ),
            (
                &jwt,
                vec![skewed("the host app", -50), skewed("the workspace", -49)],
                Verdict::Bad,
                "this machine's clock is 50s ahead",
                "set the clock here",
            ),
            (&jwt, vec![skewed("the host app", 3600)], Verdict::Bad, "1h ahead", "timedatectl set-ntp true"),
            (&header, vec![skewed("the workspace", -90)], Verdict::Warning, "1m 30s behind", "timedatectl"),
            (&header, vec![skewed("the workspace", -50)], Verdict::Good, "", ""),
            (&header, vec![], Verdict::Skipped, "Date", ""),
        ] {
            let finding = judge(config, &skews);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{finding:?}");
            assert!(!finding.fix.contains("leeway") || verdict == Verdict::Bad, "{finding:?}");
        }
        assert!(!judge(&jwt, &[skewed("the host app", 3600)]).fix.contains("leeway"), "an hour is nothing to forgive");
    }
}
