//! Whether the host app and the chat are one site: browsers keep cookies and storage of two sites apart.

use url::Url;

use super::look::Seen;
use super::{bad, good, origins, skipped, warning};
use crate::config::{Ancestor, Config, IdentitySource, JwtFrom};
use crate::doctor::Finding;
use crate::headers::site::{self, Relation};

const CHECK: &str = "site.same";

/// One finding for each origin that frames the chat.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    let hosts = framing(config, seen);
    if hosts.is_empty() {
        let why = "no origin of the host app is known: framing.allowed_ancestors names none, and neither does any other key";
        return vec![skipped(CHECK, why)];
    }
    hosts.iter().map(|host| judge(config, host)).collect()
}

/// Who frames the chat: the exact ancestors, the parents of wildcards, or whatever else names the host app.
pub(super) fn framing(config: &Config, seen: &Seen) -> Vec<Url> {
    let listed = config.framing.allowed_ancestors.iter().filter_map(|ancestor| match ancestor {
        Ancestor::Exact(origin) => Url::parse(origin.as_str()).ok(),
        Ancestor::Subdomains(source) => Url::parse(&source.replacen("*.", "", 1)).ok(),
        Ancestor::Anyone => None,
    });
    let mut hosts: Vec<Url> = listed.collect();
    if hosts.is_empty() {
        hosts.extend(origins::known(config, seen).iter().filter_map(|known| Url::parse(known.origin.as_str()).ok()));
    }
    hosts
}

fn judge(config: &Config, host: &Url) -> Finding {
    let public = &config.server.public_url;
    let (app, chat) = (host.origin().ascii_serialization(), public.origin().ascii_serialization());
    match site::relation(host, public) {
        Relation::Same => good(CHECK, format!("{app} and {chat} are one site ({})", site::site(public))),
        Relation::OtherScheme => {
            let (plain, key) = if public.scheme() == "http" {
                (&chat, "server.public_url (and Rocket.Chat's ROOT_URL)")
            } else {
                (&app, "framing.allowed_ancestors")
            };
            bad(
                CHECK,
                format!("{app} and {chat} differ in their scheme, which makes them two sites to browsers: SameSite cookies do not travel"),
                format!("serve {plain} over https too, and write it with https:// in {key}"),
            )
        }
        Relation::Cross => cross(config, host, &app, &chat),
    }
}

fn cross(config: &Config, host: &Url, app: &str, chat: &str) -> Finding {
    let public = &config.server.public_url;
    let loopback = site::is_loopback(host) && site::is_loopback(public);
    let mut seen = format!("{app} and {chat} are two sites ({} and {})", site::site(host), site::site(public));
    if let Some(suffix) = site::share_a_suffix(host, public) {
        seen.push_str(": everybody can have a name under ");
        seen.push_str(&suffix);
        seen.push_str(", so browsers keep those apart");
    }
    seen.push_str(
        ". Browsers block or partition what the framed chat stores, SameSite=Lax cookies (your session's, Rocket.Chat's rc_token) do not \
         travel, and protected images stay empty",
    );
    let fix = if loopback {
        "use one name for both, such as http://localhost:PORT, in server.public_url and framing.allowed_ancestors".to_owned()
    } else if let Some(name) = site::chat_on(host).filter(|_| !site::is_loopback(host)) {
        format!(
            "put the chat under the host app's domain: [server] public_url = \"{}://{name}\", the same in Rocket.Chat's ROOT_URL and its two \
             iframe URLs, and a DNS record and certificate for {name}",
            host.scheme()
        )
    } else {
        "give both names under one domain of yours, such as app.example.com and chat.example.com, and write them in server.public_url and \
         framing.allowed_ancestors"
            .to_owned()
    };
    if by_cookie(config) { bad(CHECK, seen, fix) } else { warning(CHECK, seen, fix) }
}

/// Whether the session comes in a cookie, which then has to travel.
pub(super) fn by_cookie(config: &Config) -> bool {
    match &config.identity.source {
        IdentitySource::ForwardAuth(source) => source.request_headers.contains(&http::header::COOKIE),
        IdentitySource::Jwt(jwt) => matches!(jwt.from, JwtFrom::Cookie(_)),
        IdentitySource::Header(_) => false,
    }
}
