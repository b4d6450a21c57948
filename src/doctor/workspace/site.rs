//! The workspace's other settings that touch what Gantry does: anonymous reading, addresses, TLS, framing, files.

use http::HeaderMap;
use http::header::{CONTENT_SECURITY_POLICY, X_FRAME_OPTIONS};
use url::Url;

use super::settings::Settings;
use crate::config::Config;
use crate::doctor::Finding;

const POLICY: &str = "settings.content_security_policy";
const FRAMING: &str = "settings.framing";

pub(super) fn checks(config: &Config, settings: &Settings) -> Vec<Finding> {
    vec![anonymous_read(settings), site_url(config, settings), force_ssl(config, settings), protected_files(settings)]
}

/// With it on the web client never asks for a login
/// (`m/client/views/root/MainLayout/AuthenticationCheck.tsx`).
fn anonymous_read(settings: &Settings) -> Finding {
    const ID: &str = "Accounts_AllowAnonymousRead";
    let check = "settings.anonymous_read";
    match settings.on(ID) {
        None => settings.skip(check, ID),
        Some(false) => Finding::good(check, format!("{ID} is off")),
        Some(true) => Finding::bad(
            check,
            format!("{ID} is on: strangers are let in without a login page, so the iframe login never begins"),
            format!("{}\nNot written by --fix, since it decides who may read.", super::set(ID, &false.into())),
        ),
    }
}

fn site_url(config: &Config, settings: &Settings) -> Finding {
    const ID: &str = "Site_Url";
    let check = "settings.site_url";
    let Some(value) = settings.text(ID) else { return settings.skip(check, ID) };
    let public = config.server.public_url.as_str().trim_end_matches('/');
    let same = Url::parse(value.trim()).is_ok_and(|url| url.as_str().trim_end_matches('/') == public);
    if same {
        return Finding::good(check, format!("{ID} is server.public_url"));
    }
    Finding::warning(
        check,
        format!(
            "{ID} is \"{value}\", and browsers reach the chat at {public} (server.public_url): links, invitations and sign-ins with other services lead elsewhere"
        ),
        format!(
            "in Rocket.Chat's environment: ROOT_URL={public}\n{ID} = {public}, under Administration > Settings > General\n\
             or, if {ID} is right, in [server] of proxy.toml: public_url = \"{}\"",
            value.trim().trim_end_matches('/')
        ),
    )
}

/// What is not said to have come by https is sent there, for ever if nobody says so
/// (`m/app/cors/server/cors.ts`).
fn force_ssl(config: &Config, settings: &Settings) -> Finding {
    const ID: &str = "Force_SSL";
    let check = "settings.force_ssl";
    let server = &config.server;
    match settings.on(ID) {
        None => settings.skip(check, ID),
        Some(false) => Finding::good(check, format!("{ID} is off: whatever ends TLS sees to https")),
        Some(true) if server.public_url.scheme() != "https" => Finding::bad(
            check,
            format!("{ID} is on, and server.public_url is http://: every page is redirected to https"),
            format!("{}\nor, in [server] of proxy.toml: public_url = \"https://…\"", super::set(ID, &false.into())),
        ),
        Some(true) if server.tls.is_none() && server.trusted_proxies.is_empty() => Finding::bad(
            check,
            format!("{ID} is on, TLS ends in front of Gantry, and nobody there is trusted: Rocket.Chat redirects to https for ever"),
            "in [server] of proxy.toml: trusted_proxies = [\"<address of what ends TLS>\"]\nand have it send X-Forwarded-Proto: https",
        ),
        Some(true) => Finding::good(check, format!("{ID} is on, and Gantry passes on that browsers come by https")),
    }
}

/// `X-Frame-Options` comes from two settings (`m/app/cors/server/cors.ts`). Gantry takes it off everything but
/// `/livechat`, so it never keeps the host app out; still it can be wrong. Without leave to read the settings, the
/// header itself tells.
fn framing(page: &Result<HeaderMap, String>, settings: &Settings) -> Finding {
    const ON: &str = "Iframe_Restrict_Access";
    const VALUE: &str = "Iframe_X_Frame_Options";
    let check = FRAMING;
    let header = page.as_ref().map(|page| page.get(X_FRAME_OPTIONS).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let (on, value) = match (settings.on(ON), &header) {
        (Some(on), _) => (on, settings.text(VALUE)),
        (None, Ok(header)) => (header.is_some(), header.as_deref()),
        (None, Err(_)) => return settings.skip(check, ON),
    };
    if !on {
        return Finding::warning(
            check,
            format!("{ON} is off: through Gantry framing.allowed_ancestors holds all the same, around it any page may frame the chat"),
            super::set(ON, &true.into()),
        );
    }
    let value = value.unwrap_or("sameorigin").trim();
    let taken_off = "Gantry takes the header off, and framing.allowed_ancestors says who may frame the chat";
    if value.eq_ignore_ascii_case("sameorigin") {
        return Finding::good(check, format!("{ON} is on ({value}); {taken_off}"));
    }
    let why = if value.to_ascii_lowercase().starts_with("allow-from") {
        "browsers ignore ALLOW-FROM, so it protects nothing around Gantry"
    } else if value.eq_ignore_ascii_case("deny") {
        "the livechat widget, whose framing Gantry leaves alone, cannot be framed at all"
    } else {
        "browsers do not know that value, so it protects nothing around Gantry"
    };
    Finding::warning(check, format!("{ON} is on, and {VALUE} is \"{value}\": {why}. {taken_off}"), super::set(VALUE, &"sameorigin".into()))
}

/// Files are fetched with cookies that the web client sets with `SameSite=Lax`
/// (`m/client/views/root/hooks/loggedIn/useStoreCookiesOnLogin.ts`).
fn protected_files(settings: &Settings) -> Finding {
    const ID: &str = "FileUpload_ProtectFiles";
    let check = "settings.protected_files";
    match settings.on(ID) {
        None => settings.skip(check, ID),
        Some(true) => Finding::good(check, format!("{ID} is on: images show as long as the chat and the host app are one site")),
        Some(false) => Finding::warning(
            check,
            format!("{ID} is off: whoever has a link reads uploaded files without a login"),
            super::set(ID, &true.into()),
        ),
    }
}

pub(super) fn skipped(why: &str) -> [Finding; 2] {
    [FRAMING, POLICY].map(|check| Finding::skipped(check, why))
}

/// What the web client's page comes with.
pub(super) fn headers(page: &Result<HeaderMap, String>, settings: &Settings) -> [Finding; 2] {
    [framing(page, settings), policy(page, settings)]
}

fn policy(page: &Result<HeaderMap, String>, settings: &Settings) -> Finding {
    const ID: &str = "Enable_CSP";
    let on = match (page, settings.on(ID)) {
        (Ok(headers), _) => headers.contains_key(CONTENT_SECURITY_POLICY),
        (Err(_), Some(on)) => on,
        (Err(why), None) => return Finding::bad(POLICY, why, "Look at Rocket.Chat's own log."),
    };
    if on {
        return Finding::good(POLICY, "Rocket.Chat's pages have a content policy; Gantry adds frame-ancestors to it");
    }
    Finding::warning(
        POLICY,
        "Rocket.Chat's pages have no content policy of their own; Gantry adds frame-ancestors and nothing else",
        super::set(ID, &true.into()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    fn look(keys: &[(&str, &str)], check: &str, values: &[(&str, Value)]) -> Finding {
        let settings = Settings::of(values);
        let findings = checks(&example(keys), &settings);
        findings
            .into_iter()
            .chain([framing(&Err("not asked".into()), &settings)])
            .find(|finding| finding.check == check)
            .expect("the check")
    }

    #[test]
    fn each_setting_is_judged_as_what_it_does_behind_gantry() {
        let open = [("server.trusted_proxies", "")];
        let http = [("server.public_url", "http://localhost:8080")];
        for (keys, check, values, verdict, fix) in [
            (
                &[][..],
                "settings.anonymous_read",
                vec![("Accounts_AllowAnonymousRead", json!(true))],
                Verdict::Bad,
                "Accounts_AllowAnonymousRead=false",
            ),
            (&[], "settings.anonymous_read", vec![("Accounts_AllowAnonymousRead", json!(false))], Verdict::Good, ""),
            (
                &[],
                "settings.site_url",
                vec![("Site_Url", json!("http://localhost:3000"))],
                Verdict::Warning,
                "ROOT_URL=https://chat.example.com",
            ),
            (&[], "settings.site_url", vec![("Site_Url", json!("https://chat.example.com/"))], Verdict::Good, ""),
            (&[], "settings.force_ssl", vec![("Force_SSL", json!(true))], Verdict::Good, ""),
            (&http, "settings.force_ssl", vec![("Force_SSL", json!(true))], Verdict::Bad, "Force_SSL=false"),
            (&open, "settings.force_ssl", vec![("Force_SSL", json!(false))], Verdict::Good, ""),
            (&[], "settings.framing", vec![("Iframe_Restrict_Access", json!(false))], Verdict::Warning, "Iframe_Restrict_Access=true"),
            (&[], "settings.framing", vec![("Iframe_Restrict_Access", json!(true))], Verdict::Good, ""),
            (
                &[],
                "settings.framing",
                vec![("Iframe_Restrict_Access", json!(true)), ("Iframe_X_Frame_Options", json!("ALLOW-FROM https://app.example.com"))],
                Verdict::Warning,
                "Iframe_X_Frame_Options=sameorigin",
            ),
            (
                &[],
                "settings.framing",
                vec![("Iframe_Restrict_Access", json!(true)), ("Iframe_X_Frame_Options", json!("DENY"))],
                Verdict::Warning,
                "Iframe_X_Frame_Options=sameorigin",
            ),
            (
                &[],
                "settings.protected_files",
                vec![("FileUpload_ProtectFiles", json!(false))],
                Verdict::Warning,
                "FileUpload_ProtectFiles=true",
            ),
            (&[], "settings.protected_files", vec![], Verdict::Skipped, ""),
        ] {
            let finding = look(keys, check, &values);
            assert_eq!(finding.verdict, verdict, "{values:?}: {finding:?}");
            assert!(
                finding.fix.contains(fix) && (verdict == Verdict::Good || verdict == Verdict::Skipped) == finding.fix.is_empty(),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn a_redirect_for_ever_is_foreseen() {
        let loops = [
            ("server.trusted_proxies", ""),
            ("identity.source", "jwt"),
            ("identity.jwt.cookie", "session"),
            ("identity.jwt.algorithms", "HS256"),
            ("identity.jwt.secret", "a-secret-of-32-characters-and-more"),
        ];
        let finding = look(&loops, "settings.force_ssl", &[("Force_SSL", json!(true))]);
        assert!(finding.verdict == Verdict::Bad && finding.fix.contains("trusted_proxies"), "{finding:?}");
    }

    #[test]
    fn the_pages_headers_are_believed_over_the_setting() {
        let mut with = HeaderMap::new();
        with.insert(CONTENT_SECURITY_POLICY, http::HeaderValue::from_static("default-src 'self'"));
        let off = Settings::of(&[("Enable_CSP", json!(false))]);
        assert_eq!(policy(&Ok(with), &off).verdict, Verdict::Good);
        let finding = policy(&Ok(HeaderMap::new()), &off);
        assert!(finding.verdict == Verdict::Warning && finding.fix.contains("Enable_CSP=true"), "{finding:?}");
        assert_eq!(policy(&Err("gone".into()), &Settings::of(&[])).verdict, Verdict::Bad);
    }

    #[test]
    fn the_header_tells_of_framing_where_the_setting_may_not_be_read() {
        for (header, verdict) in [(Some("sameorigin"), Verdict::Good), (Some("DENY"), Verdict::Warning), (None, Verdict::Warning)] {
            let mut page = HeaderMap::new();
            if let Some(header) = header {
                page.insert(X_FRAME_OPTIONS, http::HeaderValue::from_static(header));
            }
            assert_eq!(framing(&Ok(page), &Settings::of(&[])).verdict, verdict, "{header:?}");
        }
        assert_eq!(framing(&Err("gone".into()), &Settings::of(&[])).verdict, Verdict::Skipped);
    }
}
