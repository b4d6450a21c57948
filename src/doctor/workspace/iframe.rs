//! The four settings of the iframe login. All of them have to be set, or the web client shows its own login form
//! without a word; what it does with them is in `m/client/hooks/iframe/useIframe.ts`.

use serde_json::{Value, json};
use url::Url;

use super::settings::Settings;
use super::{mend, origins};
use crate::config::{Config, Origin};
use crate::doctor::Finding;

const LOGIN: &str = "Accounts_iframe_url";
const CALLBACK: &str = "Accounts_Iframe_api_url";
const METHOD: &str = "Accounts_Iframe_api_method";
const ENABLED: &str = "Accounts_iframe_enabled";

/// In the order in which they are written: the switch last, so that nobody is sent to an address that is wrong.
pub(super) fn checks(config: &Config, settings: &Settings) -> Vec<Finding> {
    let login = vec![format!("{}login", config.login.prefix)];
    vec![
        address(config, settings, "iframe.url", LOGIN, &login, &config.login.token_paths),
        address(config, settings, "iframe.api_url", CALLBACK, &config.login.token_paths, &login),
        method(settings),
        enabled(settings),
    ]
}

/// One of the two addresses: `paths` are right, `others` belong to the other one.
fn address(config: &Config, settings: &Settings, check: &'static str, id: &'static str, paths: &[String], others: &[String]) -> Finding {
    let Some(value) = settings.text(id) else { return settings.skip(check, id) };
    let public = &config.server.public_origin;
    match misled(config, value, paths, others, id == CALLBACK) {
        Ok(seen) => Finding::good(check, format!("{id} is {value}{seen}")),
        Err(why) => {
            let wanted = json!(format!("{public}{}", paths.first().map(String::as_str).unwrap_or_default()));
            let seen = if value.is_empty() { format!("{id} is empty: {why}") } else { format!("{id} is \"{value}\": {why}") };
            mend(Finding::bad(check, seen, ""), id, wanted)
        }
    }
}

/// Why an address does not lead here; `Ok` holds what else is to say about it.
fn misled(config: &Config, value: &str, paths: &[String], others: &[String], callback: bool) -> Result<&'static str, String> {
    let public = &config.server.public_origin;
    if value.is_empty() {
        return Err("the chat shows its own login form".into());
    }
    if value.trim() != value {
        return Err("there is a blank before or after it".into());
    }
    let Ok(url) = Url::parse(value) else { return Err("it is no whole address; it has to begin with https:// or http://".into()) };
    let Some(origin) = Origin::of(&url) else { return Err("it is neither https:// nor http://".into()) };
    let known = paths.iter().any(|path| path == url.path());
    if origin == *public {
        return match url.path() {
            _ if known => Ok(""),
            path if others.iter().any(|other| other == path) => {
                Err(format!("{path} belongs into {}: the two are swapped", if callback { LOGIN } else { CALLBACK }))
            }
            path if callback => Err(format!("its path {path} is none of login.token_paths ({})", paths.join(", "))),
            path => Err(format!("its path {path} is not that of Gantry's loading page ({})", paths.join(", "))),
        };
    }
    let without_scheme = |origin: &str| origin.split_once("://").map_or_else(String::new, |(_, rest)| rest.to_owned());
    if without_scheme(origin.as_str()) == without_scheme(public.as_str()) {
        return Err(format!("it is {}://, and server.public_url is {}://", url.scheme(), config.server.public_url.scheme()));
    }
    if Origin::of(&config.rocketchat.url).as_ref() == Some(&origin) {
        return Err("it leads to Rocket.Chat itself, around Gantry".into());
    }
    // A path of the host app's own that is routed here: its host-only cookie reaches it there.
    if callback && known && origins::knows(config, origin.as_str()) {
        return Ok(", a path of the host app's that has to be routed to Gantry");
    }
    Err(format!("it leads to {origin}, and the chat is {public} (server.public_url)"))
}

/// A free text that becomes the method of a `fetch`; the callback takes two.
fn method(settings: &Settings) -> Finding {
    let check = "iframe.api_method";
    let Some(value) = settings.text(METHOD) else { return settings.skip(check, METHOD) };
    // `fetch` itself writes these two in capitals.
    if ["GET", "POST"].iter().any(|good| value.eq_ignore_ascii_case(good)) {
        return Finding::good(check, format!("{METHOD} is {value}"));
    }
    let seen = if value.is_empty() {
        format!("{METHOD} is empty: the chat shows its own login form")
    } else {
        format!("{METHOD} is \"{value}\": the callback takes POST and GET")
    };
    mend(Finding::bad(check, seen, ""), METHOD, json!("POST"))
}

fn enabled(settings: &Settings) -> Finding {
    let check = "iframe.enabled";
    match settings.get(ENABLED) {
        None => settings.skip(check, ENABLED),
        Some(Value::Bool(true)) => Finding::good(check, format!("{ENABLED} is on")),
        Some(_) => mend(Finding::bad(check, format!("{ENABLED} is off: the chat shows its own login form"), ""), ENABLED, json!(true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    fn config() -> Config {
        example(&[
            ("login.token_paths", "/_gantry/token,/api/rocketchat/token"),
            ("framing.allowed_ancestors", "https://app.example.com,https://*.example.org"),
        ])
    }

    fn look(id: &str, value: &Value) -> Finding {
        let mut all = vec![
            (LOGIN, json!("https://chat.example.com/_gantry/login")),
            (CALLBACK, json!("https://chat.example.com/_gantry/token")),
            (METHOD, json!("POST")),
            (ENABLED, json!(true)),
        ];
        all.iter_mut().filter(|(known, _)| *known == id).for_each(|slot| slot.1 = value.clone());
        let findings = checks(&config(), &Settings::of(&all));
        let at = all.iter().position(|(known, _)| *known == id).expect("one of the four");
        assert!(findings.iter().enumerate().all(|(n, finding)| n == at || finding.verdict == Verdict::Good), "{findings:?}");
        findings[at].clone()
    }

    #[test]
    fn each_way_to_point_wrong_is_named_with_what_is_right() {
        for (id, value, word) in [
            (LOGIN, json!(""), "is empty"),
            (LOGIN, json!("https://chat.example.com/_gantry/login "), "blank"),
            (LOGIN, json!("/_gantry/login"), "no whole address"),
            (LOGIN, json!("http://chat.example.com/_gantry/login"), "http://"),
            (LOGIN, json!("https://chat.example.net/_gantry/login"), "https://chat.example.net"),
            (LOGIN, json!("https://chat.example.com:8443/_gantry/login"), "8443"),
            (LOGIN, json!("https://chat.example.com/login"), "/login"),
            (LOGIN, json!("https://chat.example.com/_gantry/token"), "swapped"),
            (CALLBACK, json!("https://chat.example.com/_gantry/login"), "swapped"),
            (CALLBACK, json!("https://chat.example.com/_gantry/tokens"), "login.token_paths"),
            (CALLBACK, json!("http://rocketchat:3000/_gantry/token"), "around Gantry"),
            (CALLBACK, json!("https://app.example.com/other"), "app.example.com"),
            (CALLBACK, json!("https://elsewhere.example/api/rocketchat/token"), "elsewhere.example"),
            (CALLBACK, json!("ftp://chat.example.com/_gantry/token"), "neither"),
            (METHOD, json!(""), "is empty"),
            (METHOD, json!("PUT"), "PUT"),
            (METHOD, json!("POST "), "POST and GET"),
            (ENABLED, json!(false), "is off"),
        ] {
            let finding = look(id, &value);
            assert_eq!(finding.verdict, Verdict::Bad, "{id} {value}");
            assert!(finding.seen.contains(word), "{id} {value}: {}", finding.seen);
            let write = finding.write.expect("doctor can write it");
            assert_eq!(write.setting, id);
            assert!(finding.fix.contains(&format!("OVERWRITE_SETTING_{id}={}", super::super::shown(&write.value))), "{}", finding.fix);
            assert_eq!(look(id, &write.value).verdict, Verdict::Good, "what is written is good");
        }
    }

    #[test]
    fn what_is_right_is_left_alone() {
        for (id, value) in [
            (LOGIN, json!("https://chat.example.com:443/_gantry/login?theme=dark")),
            (CALLBACK, json!("https://chat.example.com/api/rocketchat/token")),
            (CALLBACK, json!("https://app.example.com/api/rocketchat/token")),
            (METHOD, json!("GET")),
            (METHOD, json!("post")),
        ] {
            assert_eq!(look(id, &value).verdict, Verdict::Good, "{id} {value}");
        }
    }

    #[test]
    fn a_setting_that_is_not_shown_is_skipped() {
        let findings = checks(&config(), &Settings::of(&[]));
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Skipped && finding.write.is_none()), "{findings:?}");
    }
}
