//! The host app's session cookie: whether browsers bring it along to the chat. Its attributes are learned from
//! what the host app's pages set for a visitor without a session, and from what the who-am-I endpoint sets anew for
//! the sample session; values are never kept.

use http::header::SET_COOKIE;
use url::Url;

use super::frameworks::{Attribute, line};
use super::look::Seen;
use super::set_cookie::{SameSite, SetCookie, covers, path_covers};
use super::{bad, good, origins, same_site, shown, skipped, warning};
use crate::config::{Config, IdentitySource, JwtFrom};
use crate::doctor::Finding;
use crate::headers::site::{self, Relation};

const CHECK: &str = "cookie.session";

/// A cookie and the page that set it.
struct Set {
    cookie: SetCookie,
    page: Url,
}

/// One finding for each session cookie that was seen, and one when none was.
pub(super) fn checks(config: &Config, seen: &Seen) -> Vec<Finding> {
    if !same_site::by_cookie(config) {
        return Vec::new();
    }
    let named = named(config);
    let mut set: Vec<Set> = Vec::new();
    let looks = seen.pages.iter().chain(&seen.me).chain(&seen.me_signed_in);
    // What servers call each other by is not what browsers keep cookies for.
    for look in looks.filter(|look| origins::for_browsers(&look.url, config)) {
        let Some(reply) = look.reply() else { continue };
        let cookies = reply.headers.get_all(SET_COOKIE).iter().filter_map(|value| SetCookie::read(value.to_str().ok()?));
        for cookie in cookies.filter(|cookie| !cookie.removes && is_session(&cookie.name, &named)) {
            if !set.iter().any(|known| known.cookie == cookie) {
                set.push(Set { cookie, page: look.url.clone() });
            }
        }
    }
    if set.is_empty() {
        return vec![unseen(config, &named)];
    }
    set.iter().map(|set| judge(config, set)).collect()
}

fn unseen(config: &Config, named: &[String]) -> Finding {
    let which = if named.is_empty() { "the session cookie".to_owned() } else { format!("the cookie {}", named.join(", ")) };
    let chat = config.server.public_url.host_str().unwrap_or_default();
    skipped(
        CHECK,
        format!(
            "the host app sets no session cookie before somebody signs in, so its attributes could not be seen. In the browser's \
             developer tools {which} must have a Domain that covers {chat}, Path=/, Secure on https, and no SameSite=None without Secure"
        ),
    )
}

/// Cookies that the configuration calls the session.
fn named(config: &Config) -> Vec<String> {
    match &config.identity.source {
        IdentitySource::ForwardAuth(source) => source.cookies.clone(),
        IdentitySource::Jwt(jwt) => match &jwt.from {
            JwtFrom::Cookie(name) => vec![name.clone()],
            JwtFrom::Header(_) => Vec::new(),
        },
        IdentitySource::Header(_) => Vec::new(),
    }
}

/// Whether a cookie is the session: named so by the configuration, or, where that names none, by its name.
fn is_session(name: &str, named: &[String]) -> bool {
    if !named.is_empty() {
        return named.iter().any(|known| known == name);
    }
    let lower = name.to_ascii_lowercase();
    let other = ["csrf", "xsrf", "consent", "analytics", "lang", "locale", "theme", "_ga"];
    let session = ["sess", "sid", "auth", "token", "login", "jwt", "identity", "remember"];
    !other.iter().any(|word| lower.contains(word)) && session.iter().any(|word| lower.contains(word))
}

fn judge(config: &Config, set: &Set) -> Finding {
    let name = shown(&set.cookie.name);
    let public = &config.server.public_url;
    let (app, chat) = (set.page.host_str().unwrap_or_default(), public.host_str().unwrap_or_default());
    if let Some((seen, fix)) = refused_by_browsers(&set.cookie, &set.page) {
        return bad(CHECK, format!("the cookie {name} of {app} {seen}: browsers do not keep it"), fix);
    }
    if let Some((seen, fix)) = does_not_reach(config, &set.cookie, &set.page) {
        return bad(CHECK, format!("the cookie {name} of {app} {seen}"), fix);
    }
    if let Some((seen, fix)) = not_along(config, set) {
        return bad(CHECK, format!("the cookie {name} of {app} {seen}"), fix);
    }
    if set.page.scheme() == "https" && !set.cookie.secure {
        return warning(
            CHECK,
            format!("the cookie {name} of {app} is not Secure: it travels over plain HTTP too, where anybody on the way reads it"),
            line(&set.cookie.name, Attribute::Secure),
        );
    }
    good(CHECK, format!("the cookie {name} of {app} reaches {chat}"))
}

/// What browsers refuse to store at all (RFC 6265bis §5.7).
fn refused_by_browsers(cookie: &SetCookie, page: &Url) -> Option<(String, String)> {
    let name = cookie.name.as_str();
    let plain = page.scheme() == "http" && !site::is_loopback(page);
    let host = page.host_str().unwrap_or_default();
    if cookie.same_site == SameSite::None && !cookie.secure {
        return Some(("is SameSite=None without Secure".into(), line(name, Attribute::Secure)));
    }
    if cookie.partitioned && !cookie.secure {
        return Some(("is Partitioned without Secure".into(), line(name, Attribute::Secure)));
    }
    if cookie.secure && plain {
        return Some(("is Secure and set over plain HTTP".into(), format!("serve {host} over https")));
    }
    if let Some(domain) =
        cookie.domain.as_deref().filter(|domain| !covers(domain, host) || site::registrable(domain).is_none() && *domain != host)
    {
        let own = site::registrable(host).unwrap_or(host);
        return Some((format!("has Domain={}, which {host} may not set", shown(domain)), line(name, Attribute::Domain(own))));
    }
    None
}

/// What keeps it from requests to the chat.
fn does_not_reach(config: &Config, cookie: &SetCookie, page: &Url) -> Option<(String, String)> {
    let public = &config.server.public_url;
    let (app, chat) = (page.host_str().unwrap_or_default(), public.host_str().unwrap_or_default());
    let reaches = cookie.domain.as_deref().map_or(app == chat, |domain| covers(domain, chat));
    if !reaches {
        let seen = match &cookie.domain {
            _ if cookie.name.starts_with("__Host-") => format!("is host-only by its name (__Host-): it never reaches {chat}"),
            None => format!("is host-only (it has no Domain): it never reaches {chat}"),
            Some(domain) => format!("has Domain={}: it never reaches {chat}", shown(domain)),
        };
        return Some((seen, shared(config, cookie, page)));
    }
    if cookie.secure && public.scheme() == "http" && !site::is_loopback(public) {
        let fix = format!("serve the chat over https and set [server] public_url = \"https://{chat}\"");
        return Some((format!("is Secure, and {public} is plain HTTP: it never goes there"), fix));
    }
    // A cookie without a path has that of the page's directory (RFC 6265 §5.1.4).
    let own = cookie
        .path
        .clone()
        .unwrap_or_else(|| page.path().rsplit_once('/').map_or("/", |(dir, _)| if dir.is_empty() { "/" } else { dir }).to_owned());
    let token = config.login.token_paths.first().map_or("/", String::as_str);
    if !path_covers(&own, token) {
        return Some((format!("has Path={}: it never goes to {token}", shown(&own)), line(&cookie.name, Attribute::Path)));
    }
    None
}

/// How a cookie that stays on the host app's own host can serve the chat all the same.
fn shared(config: &Config, cookie: &SetCookie, page: &Url) -> String {
    let public = &config.server.public_url;
    let (app, origin) = (page.host_str().unwrap_or_default(), page.origin().ascii_serialization());
    let path = "/api/rocketchat/token";
    let mut paths = config.login.token_paths.clone();
    paths.push(path.to_owned());
    let own_path = format!(
        "route {origin}{path} to Gantry, with [login] token_paths = {} and Rocket.Chat's Accounts_Iframe_api_url = {origin}{path}",
        super::toml_list(&paths)
    );
    match (site::relation(page, public), site::registrable(app)) {
        (Relation::Same | Relation::OtherScheme, Some(domain)) if site::site(public) == domain && !cookie.name.starts_with("__Host-") => {
            format!("{}; or leave it and {own_path}", line(&cookie.name, Attribute::Domain(domain)))
        }
        (Relation::Same | Relation::OtherScheme, Some(domain)) if site::site(public) == domain => {
            let bare = cookie.name.trim_start_matches("__Host-");
            format!("call it __Secure-{bare} and give it Domain={domain}; or leave it and {own_path}")
        }
        _ => format!("{own_path}; better: one domain for both, see site.same"),
    }
}

/// What keeps it from requests out of a frame on the host app's page.
fn not_along(config: &Config, set: &Set) -> Option<(String, String)> {
    let public = &config.server.public_url;
    if site::relation(&set.page, public) == Relation::Same || set.cookie.same_site == SameSite::None {
        return None;
    }
    let word = match set.cookie.same_site {
        SameSite::Strict => "is SameSite=Strict",
        SameSite::Lax => "is SameSite=Lax",
        SameSite::Unsaid | SameSite::None => "has no SameSite, which browsers take for Lax",
    };
    let chat = public.origin().ascii_serialization();
    let app = set.page.origin().ascii_serialization();
    Some((
        format!("{word}, and {app} and {chat} are two sites: it does not travel between them"),
        format!(
            "make them one site, see site.same; short of that {}, which more and more browsers block",
            line(&set.cookie.name, Attribute::None)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    fn judged(public: &str, page: &str, cookie: &str) -> Finding {
        let config = config::example(&[
            ("server.public_url", public),
            ("identity.source", "forward_auth"),
            ("identity.header.id", ""),
            ("identity.forward_auth.url", "https://app.example.com/api/me"),
        ]);
        judge(&config, &Set { cookie: SetCookie::read(cookie).unwrap(), page: Url::parse(page).unwrap() })
    }

    #[test]
    fn what_keeps_a_cookie_from_the_chat_is_named() {
        let (chat, app) = ("https://chat.example.com", "https://app.example.com/");
        let all = "Path=/; Secure; HttpOnly; SameSite=Lax";
        for (public, page, cookie, verdict, seen, fix) in [
            (chat, app, format!("sid=1; Domain=example.com; {all}"), Verdict::Good, "reaches chat.example.com", ""),
            (chat, app, format!("sid=1; Domain=.example.com; {all}"), Verdict::Good, "", ""),
            (chat, app, "sid=1; Domain=example.com; Path=/; Secure; SameSite=Strict".into(), Verdict::Good, "", ""),
            (chat, app, format!("sessionid=1; {all}"), Verdict::Bad, "host-only", "SESSION_COOKIE_DOMAIN = \"example.com\" (Django)"),
            (chat, app, format!("connect.sid=1; {all}"), Verdict::Bad, "host-only", "domain: \"example.com\""),
            (chat, app, format!("laravel_session=1; {all}"), Verdict::Bad, "host-only", "SESSION_DOMAIN=example.com"),
            (chat, app, format!("PHPSESSID=1; {all}"), Verdict::Bad, "host-only", "session.cookie_domain = \"example.com\""),
            (chat, app, format!("JSESSIONID=1; {all}"), Verdict::Bad, "host-only", "cookie.domain=example.com"),
            (chat, app, format!("_app_session=1; {all}"), Verdict::Bad, "host-only", "key: \"_app_session\", domain: \"example.com\""),
            (
                chat,
                app,
                format!("sid=1; {all}"),
                Verdict::Bad,
                "host-only",
                "Accounts_Iframe_api_url = https://app.example.com/api/rocketchat/token",
            ),
            (
                chat,
                app,
                format!("__Host-sid=1; {all}"),
                Verdict::Bad,
                "host-only by its name",
                "__Secure-sid and give it Domain=example.com",
            ),
            (chat, app, format!("sid=1; Domain=app.example.com; {all}"), Verdict::Bad, "has Domain=app.example.com", "Domain=example.com"),
            (chat, app, format!("sid=1; Domain=other.com; {all}"), Verdict::Bad, "may not set", "Domain=example.com"),
            (chat, app, format!("sid=1; Domain=com; {all}"), Verdict::Bad, "may not set", "Domain=example.com"),
            (chat, app, "sid=1; Domain=example.com; Path=/app; Secure".into(), Verdict::Bad, "has Path=/app", "Path=/"),
            (chat, app, "sid=1; Domain=example.com; Path=/; SameSite=Lax".into(), Verdict::Warning, "not Secure", "Secure"),
            (chat, app, "sid=1; Domain=example.com; Path=/; SameSite=None".into(), Verdict::Bad, "SameSite=None without Secure", "Secure"),
            (chat, app, "sid=1; Domain=example.com; Path=/; Partitioned".into(), Verdict::Bad, "Partitioned without Secure", "Secure"),
            (
                "https://chat.example.net",
                app,
                format!("sid=1; {all}"),
                Verdict::Bad,
                "never reaches chat.example.net",
                "one domain for both",
            ),
            (
                "http://chat.example.com",
                app,
                format!("sid=1; Domain=example.com; {all}"),
                Verdict::Bad,
                "is plain HTTP",
                "https://chat.example.com",
            ),
            (chat, "http://app.example.com/", "sid=1; Domain=example.com; Path=/".into(), Verdict::Bad, "has no SameSite", "see site.same"),
            (
                chat,
                "http://app.example.com/",
                "sid=1; Domain=example.com; Path=/; SameSite=Strict".into(),
                Verdict::Bad,
                "is SameSite=Strict",
                "site.same",
            ),
            ("http://localhost:8080", "http://localhost:3000/", "sid=1; Path=/".into(), Verdict::Good, "", ""),
            ("http://localhost:8080", "http://localhost:3000/app/login", "sid=1".into(), Verdict::Bad, "has Path=/app", "Path=/"),
            ("https://app.example.com:8443", app, format!("sid=1; {all}"), Verdict::Good, "", ""),
        ] {
            let finding = judged(public, page, &cookie);
            assert_eq!(finding.verdict, verdict, "{public} {page} {cookie}: {finding:?}");
            assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{public} {page} {cookie}: {finding:?}");
        }
    }

    #[test]
    fn a_session_is_known_by_the_config_or_its_name() {
        let named = ["app".to_owned()];
        for (name, by_name, by_config) in [
            ("app", false, true),
            ("sessionid", true, false),
            ("connect.sid", true, false),
            ("csrftoken", false, false),
            ("_ga_session", false, false),
        ] {
            assert_eq!((is_session(name, &[]), is_session(name, &named)), (by_name, by_config), "{name}");
        }
    }
}
