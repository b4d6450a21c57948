//! Which limits have bitten, for the status page.

use std::fmt::{self, Write};

use serde::Serialize;

use super::reading::Reading;
use crate::metrics::{CallFault, CallTarget, Limit};

/// Something that was refused or given up for a limit, or a call of Gantry's own that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bite {
    /// The key of the limit, or whom Gantry called.
    pub what: String,
    /// Why the call came to nothing; absent for limits on our own paths.
    pub reason: Option<&'static str>,
    /// How often, since the start.
    pub times: u64,
}

/// Whatever has happened at least once.
pub(super) fn read(reading: &Reading) -> Vec<Bite> {
    let times = |name: &str, labels: &[(&str, &str)]| reading.count(name, labels).unwrap_or_default();
    let hits = Limit::ALL.into_iter().map(|limit| Bite {
        what: format!("limits.{}", limit.as_str()),
        reason: None,
        times: times("gantry_limit_hits_total", &[("limit", limit.as_str())]),
    });
    let calls = CallTarget::ALL.into_iter().flat_map(|target| CallFault::ALL.map(|fault| (target.as_str(), fault.as_str())));
    let failures = calls.map(|(target, reason)| Bite {
        what: target.to_owned(),
        reason: Some(reason),
        times: times("gantry_outbound_failures_total", &[("target", target), ("reason", reason)]),
    });
    hits.chain(failures).filter(|bite| bite.times > 0).collect()
}

/// The section of the page. It is there in any case: the page's script fills what stands already.
pub(super) fn write(out: &mut String, bites: &[Bite]) -> fmt::Result {
    out.push_str("<section id=\"limits\"><h2>Limits and failed calls</h2>");
    if bites.is_empty() {
        out.push_str("<p class=\"empty\">No limit has bitten, and no call of Gantry\u{2019}s own has failed.</p></section>");
        return Ok(());
    }
    out.push_str("<table><thead><tr><th scope=\"col\">what</th><th scope=\"col\" class=\"num\">times</th></tr></thead><tbody>");
    for Bite { what, reason, times } in bites {
        match reason {
            None => write!(out, "<tr><td>{what}</td><td class=\"num\">{times}</td></tr>")?,
            Some(reason) => {
                let words = reason.replace('_', " ");
                write!(out, "<tr><td>calls to {what}: {words}</td><td class=\"num\">{times}</td></tr>")?;
            }
        }
    }
    out.push_str("</tbody></table></section>");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn what_has_happened_is_told_and_nothing_else() {
        let metrics = Metrics::new(1);
        let shown = || {
            let (bites, mut page) = (read(&Reading::new(metrics.gather())), String::new());
            write(&mut page, &bites).unwrap();
            (bites, page)
        };
        let (bites, page) = shown();
        assert!(bites.is_empty() && page.contains("No limit has bitten"), "{page}");
        metrics.limit_hit(Limit::LoginsPerClient);
        metrics.limit_hit(Limit::LoginsPerClient);
        metrics.call_failed(CallTarget::Jwks, CallFault::BodyTooLarge);
        let (bites, page) = shown();
        assert_eq!(
            bites.iter().map(|bite| (bite.what.as_str(), bite.reason, bite.times)).collect::<Vec<_>>(),
            [("limits.logins_per_client", None, 2), ("jwks", Some("body_too_large"), 1),]
        );
        assert!(
            page.contains("limits.logins_per_client</td><td class=\"num\">2") && page.contains("calls to jwks: body too large"),
            "{page}"
        );
    }
}
