//! How a session cookie gets an attribute, in the lines of common frameworks.

use super::shown;

/// What a cookie lacks.
#[derive(Clone, Copy)]
pub(super) enum Attribute<'a> {
    /// The domain that it has to be for.
    Domain(&'a str),
    /// `Path=/`.
    Path,
    /// `Secure`.
    Secure,
    /// `SameSite=None`.
    None,
}

/// The exact line, where the cookie's name tells the framework; else the attribute and the usual lines.
pub(super) fn line(name: &str, attribute: Attribute<'_>) -> String {
    let lower = name.to_ascii_lowercase();
    let like = |word: &str| lower.contains(word);
    let domain = match attribute {
        Attribute::Domain(domain) => domain,
        _ => "",
    };
    let django = match attribute {
        Attribute::Domain(_) => format!("SESSION_COOKIE_DOMAIN = \"{domain}\""),
        Attribute::Path => "SESSION_COOKIE_PATH = \"/\"".into(),
        Attribute::Secure => "SESSION_COOKIE_SECURE = True".into(),
        Attribute::None => "SESSION_COOKIE_SAMESITE = \"None\" and SESSION_COOKIE_SECURE = True".into(),
    };
    let laravel = match attribute {
        Attribute::Domain(_) => format!("SESSION_DOMAIN={domain}"),
        Attribute::Path => "'path' => '/' in config/session.php".into(),
        Attribute::Secure => "SESSION_SECURE_COOKIE=true".into(),
        Attribute::None => "SESSION_SAME_SITE=none and SESSION_SECURE_COOKIE=true".into(),
    };
    let php = match attribute {
        Attribute::Domain(_) => format!("session.cookie_domain = \"{domain}\" in php.ini"),
        Attribute::Path => "session.cookie_path = \"/\" in php.ini".into(),
        Attribute::Secure => "session.cookie_secure = 1 in php.ini".into(),
        Attribute::None => "session.cookie_samesite = \"None\" and session.cookie_secure = 1 in php.ini".into(),
    };
    let spring = match attribute {
        Attribute::Domain(_) => format!("server.servlet.session.cookie.domain={domain}"),
        Attribute::Path => "server.servlet.session.cookie.path=/".into(),
        Attribute::Secure => "server.servlet.session.cookie.secure=true".into(),
        Attribute::None => "server.servlet.session.cookie.same-site=none and server.servlet.session.cookie.secure=true".into(),
    };
    let express = match attribute {
        Attribute::Domain(_) => format!("session({{ cookie: {{ domain: \"{domain}\" }} }})"),
        Attribute::Path => "session({ cookie: { path: \"/\" } })".into(),
        Attribute::Secure => "session({ cookie: { secure: true } })".into(),
        Attribute::None => "session({ cookie: { sameSite: \"none\", secure: true } })".into(),
    };
    let rails = match attribute {
        Attribute::Domain(_) => format!("config.session_store :cookie_store, key: \"{}\", domain: \"{domain}\"", shown(name)),
        Attribute::Path => format!("config.session_store :cookie_store, key: \"{}\", path: \"/\"", shown(name)),
        Attribute::Secure => format!("config.session_store :cookie_store, key: \"{}\", secure: true", shown(name)),
        Attribute::None => format!("config.session_store :cookie_store, key: \"{}\", same_site: :none, secure: true", shown(name)),
    };
    let said = match attribute {
        Attribute::Domain(_) => format!("give it Domain={domain}"),
        Attribute::Path => "give it Path=/".into(),
        Attribute::Secure => "give it Secure".into(),
        Attribute::None => "give it SameSite=None; Secure".into(),
    };
    if like("connect.sid") {
        format!("{said}: {express} (Express)")
    } else if like("laravel") {
        format!("{said}: {laravel} in .env (Laravel)")
    } else if like("phpsessid") {
        format!("{said}: {php}")
    } else if like("jsessionid") {
        format!("{said}: {spring} (Spring)")
    } else if lower == "sessionid" {
        format!("{said}: {django} (Django)")
    } else if lower.starts_with('_') && lower.ends_with("_session") {
        format!("{said}: {rails} (Rails)")
    } else {
        format!("{said}: {django} (Django), {express} (Express), {rails} (Rails), {laravel} (Laravel), {spring} (Spring), {php}")
    }
}
