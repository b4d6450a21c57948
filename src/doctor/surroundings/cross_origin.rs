//! The callback on another origin than the chat's, as host-only session cookies want it: browsers call it across
//! origins, with credentials, and ask first.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
};
use http::{HeaderValue, Method};
use url::Url;

use super::look::{self, Eyes, Seen};
use super::{bad, good, origins, shown, toml_list, warning};
use crate::config::{Config, Origin};
use crate::doctor::Finding;

const CHECK: &str = "cors.token_path";

/// One finding where Rocket.Chat's API URL is on the host app's origin; nothing where it is on the chat's own. One
/// that leads anywhere else is the business of the checks of the workspace.
pub(super) async fn checks(config: &Config, seen: &Seen, eyes: &Eyes) -> Option<Finding> {
    let text = seen.setting("Accounts_Iframe_api_url")?;
    let url = Url::parse(text).ok()?;
    let (own, other) = (config.server.public_origin.as_str(), Origin::of(&url)?);
    if other.as_str() == own {
        return None;
    }
    let framing = config.framing.allowed_ancestors.iter().any(|ancestor| origins::matches(ancestor.as_str(), &url));
    if !framing && !origins::known(config, seen).iter().any(|known| known.origin == other) {
        return None;
    }
    let path = url.path();
    let ours = format!("{}token", config.login.prefix);
    let known = config.login.token_paths.iter().chain([&ours]).any(|known| known == path);
    if !known {
        let mut paths = config.login.token_paths.clone();
        paths.push(shown(path));
        return Some(bad(
            CHECK,
            format!("Rocket.Chat's Accounts_Iframe_api_url is {other}{}, and login.token_paths does not list that path", shown(path)),
            format!("[login] token_paths = {}; or set Accounts_Iframe_api_url to {own}{ours}", toml_list(&paths)),
        ));
    }
    let mut asked = look::from_origin(own);
    asked.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
    asked.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("content-type"));
    let look = eyes.peep(Method::OPTIONS, &url, asked).await;
    let place = format!("{other}{}", shown(path));
    Some(match &look.outcome {
        Err(error) => warning(
            CHECK,
            format!("{place} (Accounts_Iframe_api_url) cannot be reached from here: {error}"),
            format!("route {place} to Gantry; or set Accounts_Iframe_api_url to {own}{ours}"),
        ),
        Ok(reply) => {
            let granted = look::header(reply, &ACCESS_CONTROL_ALLOW_ORIGIN) == Some(own);
            let credentials = look::header(reply, &ACCESS_CONTROL_ALLOW_CREDENTIALS) == Some("true");
            if granted && credentials {
                good(CHECK, format!("{place} lets pages of {own} call it with cookies"))
            } else {
                bad(
                    CHECK,
                    format!(
                        "{place} (Accounts_Iframe_api_url) does not let pages of {own} call it with cookies: its preflight is answered {}",
                        reply.status.as_u16()
                    ),
                    format!(
                        "route that path to Gantry as it is, OPTIONS included, and add no CORS headers there (in nginx: location = {} {{ proxy_pass \
                         {}; }}); cors.allowed_origins has to list every other origin whose scripts call it",
                        shown(path),
                        look::local_url(config, "").map_or_else(|| "http://GANTRY".to_owned(), |url| url.origin().ascii_serialization())
                    ),
                )
            }
        }
    })
}
