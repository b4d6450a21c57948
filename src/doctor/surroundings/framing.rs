//! Who may frame the chat: whether the host app is among them, and what browsers are really told.

use http::header::{CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use url::Url;

use super::front::Front;
use super::look::{self, Seen};
use super::origins::{self, Known};
use super::{bad, good, shown, skipped, toml_list, warning};
use crate::config::{Ancestor, Config};
use crate::doctor::Finding;
use crate::outbound::api::Reply;

const ANCESTORS: &str = "framing.ancestors";
const ANSWER: &str = "framing.answer";

/// The configured list, and the headers of the public page.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![listed(config, &origins::known(config, seen))];
    if let Ok(reply) = &seen.page.outcome {
        findings.push(answered(config, reply));
    }
    findings
}

fn listed(config: &Config, known: &[Known]) -> Finding {
    let allowed = &config.framing.allowed_ancestors;
    let line = |origins: &[&str]| format!("[framing] allowed_ancestors = {}", toml_list(origins));
    // Servers call each other by address; people know the app by a name.
    let named = |known: &&Known| Url::parse(known.origin.as_str()).is_ok_and(|url| url.domain().is_some());
    let guessed: Vec<&str> = known.iter().find(named).or(known.first()).map(|known| known.origin.as_str()).into_iter().collect();
    if allowed.is_empty() {
        let fix = if guessed.is_empty() { line(&["https://app.example.com"]) + ", with the host app's origin" } else { line(&guessed) };
        return bad(ANCESTORS, "framing.allowed_ancestors is empty: no page but the chat's own may frame it", fix);
    }
    if allowed.contains(&Ancestor::Anyone) {
        let fix = line(if guessed.is_empty() { &["https://app.example.com"] } else { &guessed });
        return warning(ANCESTORS, "framing.allowed_ancestors has \"*\": any page may lay itself over the chat and steer clicks", fix);
    }
    let framed = |known: &Known| {
        let origin = Url::parse(known.origin.as_str()).ok();
        origin.is_some_and(|origin| allowed.iter().any(|source| origins::matches(source.as_str(), &origin)))
    };
    let sources: Vec<&str> = allowed.iter().map(Ancestor::as_str).collect();
    // Where one signs in may be another place than where one is framed, but one of all has to be the host app.
    if known.is_empty() || known.iter().any(framed) {
        let missing = known.iter().find(|known| known.by.starts_with("Iframe_Integration") && !framed(known));
        return match missing {
            Some(known) => warning(
                ANCESTORS,
                format!("Rocket.Chat's {} names {}, which framing.allowed_ancestors does not let frame the chat", known.by, known.origin),
                line(&sources.iter().copied().chain([known.origin.as_str()]).collect::<Vec<_>>()),
            ),
            None => good(ANCESTORS, format!("{} may frame the chat", sources.join(", "))),
        };
    }
    let who: Vec<String> = known.iter().map(|known| format!("{} ({})", known.origin, known.by)).collect();
    bad(
        ANCESTORS,
        format!("framing.allowed_ancestors is {}, which does not contain the host app: {}", toml_list(&sources), who.join(", ")),
        line(&sources.iter().copied().chain(guessed).collect::<Vec<_>>()),
    )
}

/// What the public page says about framing.
fn answered(config: &Config, reply: &Reply) -> Finding {
    let front = Front::of(Some(reply));
    if let Some(value) = look::header(reply, &X_FRAME_OPTIONS) {
        return bad(
            ANSWER,
            format!("the public page carries X-Frame-Options: {}, which Gantry removes: {} adds it, and the frame stays empty", shown(value), front.name()),
            match front {
                Front::Nginx => "in nginx: take add_header X-Frame-Options out of this server, or put proxy_hide_header X-Frame-Options; beside it".to_owned(),
                Front::Apache => "in Apache: Header always unset X-Frame-Options".to_owned(),
                Front::Caddy => "in Caddy: header -X-Frame-Options".to_owned(),
                _ => "take X-Frame-Options out of what stands in front of Gantry, and check that the public address leads to Gantry (public.gantry)".to_owned(),
            },
        );
    }
    if reply.status.is_redirection() || reply.status.is_server_error() {
        return skipped(ANSWER, format!("the public page answers {}, so its framing headers could not be judged", reply.status.as_u16()));
    }
    let policies = ancestors(reply);
    let own = config.framing.allowed_ancestors.iter().map(Ancestor::as_str);
    let missing: Vec<&str> = own.filter(|source| policies.iter().any(|policy| !lists(policy, source))).collect();
    if !missing.is_empty() {
        let strict = policies.iter().find(|policy| !lists(policy, missing[0])).cloned().unwrap_or_default();
        return bad(
            ANSWER,
            format!(
                "the public page carries frame-ancestors {}, which leaves {} out; browsers heed every policy that they get",
                shown(&strict.join(" ")),
                missing.join(", ")
            ),
            if policies.len() > 1 {
                format!("take the second Content-Security-Policy out of {}, or its frame-ancestors", front.name())
            } else {
                "restart or reload Gantry, if it runs with an older configuration (kill -HUP); else take the policy out of what stands in front".to_owned()
            },
        );
    }
    if policies.is_empty() {
        return bad(
            ANSWER,
            "the public page carries no frame-ancestors: any page may frame the chat, or it does not come from Gantry",
            format!("see public.gantry; if it leads to Gantry, {} takes Content-Security-Policy away and must not", front.name()),
        );
    }
    good(ANSWER, format!("the public page tells browsers frame-ancestors {}", shown(&policies[0].join(" "))))
}

/// The sources of every `frame-ancestors` of an answer.
fn ancestors(reply: &Reply) -> Vec<Vec<String>> {
    let fields = reply.headers.get_all(CONTENT_SECURITY_POLICY).iter().filter_map(|value| value.to_str().ok());
    let policies = fields.flat_map(|field| field.split(','));
    let directive = |policy: &str| {
        policy.split(';').find_map(|directive| {
            let mut words = directive.split_ascii_whitespace();
            let name = words.next()?;
            name.eq_ignore_ascii_case("frame-ancestors").then(|| words.map(str::to_owned).collect())
        })
    };
    policies.filter_map(directive).collect()
}

fn lists(policy: &[String], source: &str) -> bool {
    let origin = Url::parse(source).ok();
    policy.iter().any(|own| {
        own == "*"
            || own.eq_ignore_ascii_case(source)
            || origin.as_ref().is_some_and(|origin| !source.contains('*') && origins::matches(own, origin))
    })
}
