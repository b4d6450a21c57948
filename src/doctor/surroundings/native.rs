//! The native login, where it is on: what guards it, and what its secret travels over.

use super::{Finding, good, toml_list, warning};
use crate::config::Config;

const HTTPS: &str = "native.https";
const GUARD: &str = "native.guard";

/// Nothing where it is off.
pub(super) fn checks(config: &Config) -> Vec<Finding> {
    let native = &config.login.native;
    if !native.enabled {
        return Vec::new();
    }
    let https = if config.server.public_url.scheme() == "https" {
        good(HTTPS, "[login.native] is on, and the chat is reached over https")
    } else {
        warning(
            HTTPS,
            "[login.native] is on, and the chat is reached over plain http: its secret and cookie, and the passwords that are typed in \
             afterwards, can be read on the way",
            "serve the chat over https ([server.tls], or whatever ends TLS in front), with an https:// address in [server] public_url; until \
             then [login.native] enabled = false",
        )
    };
    let open: Vec<_> = native.allowed_addresses.iter().filter(|network| network.prefix_len() == 0).map(ToString::to_string).collect();
    let guard = match (open.is_empty(), native.allowed_addresses.is_empty(), native.secret.is_some()) {
        (false, _, secret) => warning(
            GUARD,
            format!(
                "[login.native] allowed_addresses has {}: it is there for everybody{}",
                toml_list(&open),
                if secret { ", behind its secret alone" } else { ", and asks for no secret" }
            ),
            "in [login.native]: allowed_addresses = [\"10.0.0.0/8\"], with the networks that administrators come from",
        ),
        (true, false, true) => good(GUARD, "[login.native] is for listed addresses, and asks for a secret"),
        (true, false, false) => good(GUARD, "[login.native] is for listed addresses"),
        (true, true, _) => good(GUARD, "[login.native] asks for a secret"),
    };
    vec![https, guard]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    #[test]
    fn plain_http_and_an_open_door_are_noted() {
        use Verdict::{Good, Warning};
        let secret = ("login.native.secret", "sixteen-letters!");
        let on = ("login.native.enabled", "true");
        let http = ("server.public_url", "http://chat.example.com");
        for (keys, expected) in [
            (vec![], vec![]),
            (vec![secret, http], vec![]),
            (vec![on, secret], vec![Good, Good]),
            (vec![on, secret, http], vec![Warning, Good]),
            (vec![on, ("login.native.allowed_addresses", "10.0.0.0/8")], vec![Good, Good]),
            (vec![on, secret, ("login.native.allowed_addresses", "10.0.0.0/8")], vec![Good, Good]),
            (vec![on, secret, ("login.native.allowed_addresses", "10.0.0.0/8,0.0.0.0/0")], vec![Good, Warning]),
            (vec![on, ("login.native.allowed_addresses", "::/0")], vec![Good, Warning]),
        ] {
            let findings = checks(&example(&keys));
            let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
            assert_eq!(verdicts, expected, "{keys:?}: {findings:?}");
            assert!(!format!("{findings:?}").contains("sixteen-letters!"));
        }
    }
}
