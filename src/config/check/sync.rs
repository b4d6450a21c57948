//! `[sync]`.

use std::path::{Path, PathBuf};

use super::reader::Reader;
use crate::config::{ByRole, MatchBy, SyncRules, Users};

pub(super) fn sync(r: &mut Reader<'_>, users: Option<&Users>) -> Option<SyncRules> {
    let name = r.bool("sync.name");
    let email = r.bool("sync.email");
    let username = r.bool("sync.username");
    let avatar = r.bool("sync.avatar");
    let roles = by_role(r, "sync.roles", "role id");
    let channels = names(r, "sync.channels");
    let channels_by_role = by_role(r, "sync.channels_by_role", "channel");
    let teams = names(r, "sync.teams");
    let teams_by_role = by_role(r, "sync.teams_by_role", "team");
    let every = r.duration_or_zero("sync.every");
    let profile_pause = r.duration_or_zero("sync.profile_pause");
    let state_file = r.parse_optional("sync.state_file", replaceable);
    if avatar == Some(true) && r.optional("identity.source") == Some("header") {
        r.warn("sync.avatar", "has no effect with identity.source = \"header\", which brings no picture; take it out");
    }
    if let Some(users) = users {
        for one in &roles {
            if users.deny_roles.iter().any(|denied| denied.eq_ignore_ascii_case(&one.gives)) {
                let why = "gives a role of users.deny_roles, which is neither given nor taken away; take it out of one of the two";
                r.item_problem("sync.roles", &format!("{}={}", one.host, one.gives), why);
            }
        }
        if username == Some(true) && !users.match_by.contains(&MatchBy::Email) {
            let why = "has no effect with users.match_by = [\"username\"]: who is called otherwise at the host app is not found by the new \
                       name and gets another account; add \"email\" to users.match_by, or take this out";
            r.problem("sync.username", why);
        }
    }
    Some(SyncRules {
        name: name?,
        email: email?,
        username: username?,
        avatar: avatar?,
        roles,
        channels,
        channels_by_role,
        teams,
        teams_by_role,
        every: every?,
        profile_pause: profile_pause?,
        state_file,
    })
}

/// `host-role=thing`. The last `=` counts: names of groups in a directory have more of them.
fn by_role(r: &mut Reader<'_>, path: &str, thing: &str) -> Vec<ByRole> {
    let read = |text: &str| match text.rsplit_once('=').map(|(host, gives)| (host.trim(), gives.trim())) {
        Some((host, gives)) if !host.is_empty() && !gives.is_empty() => {
            plain(gives)?;
            Ok(ByRole { host: host.to_owned(), gives: gives.to_owned() })
        }
        _ => Err(format!("is not a role of the host app and a {thing} of Rocket.Chat; write it like \"host-role={}\"", example(thing))),
    };
    let mut all: Vec<ByRole> = Vec::new();
    for (written, one) in r.each(path, read) {
        if all.contains(&one) {
            r.item_problem(path, written, "stands there twice; take one out");
        }
        all.push(one);
    }
    all
}

fn example(thing: &str) -> &'static str {
    if thing == "role id" { "moderator" } else { "general" }
}

/// Names of channels or teams.
fn names(r: &mut Reader<'_>, path: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (written, name) in r.each(path, |text| plain(text).map(|()| text.to_owned())) {
        if all.contains(&name) {
            r.item_problem(path, written, "stands there twice; take one out");
        }
        all.push(name);
    }
    all
}

fn plain(name: &str) -> Result<(), String> {
    if name.starts_with('#') || name.chars().any(char::is_control) {
        return Err("is not a name as the workspace knows it; write it without the # in front".into());
    }
    Ok(())
}

/// A file that may not be there yet, in a directory that is.
fn replaceable(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    if path.is_dir() {
        return Err("is a directory; name a file in it".into());
    }
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() || parent.is_dir() => Ok(path.to_owned()),
        Some(parent) => {
            Err(format!("stands in {}, which is no directory; make it, writable for the user that Gantry runs as", parent.display()))
        }
        None => Err("is not the path of a file".into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ByRole, example, load};

    fn problems(keys: &[(&str, &str)]) -> Vec<String> {
        let base = [
            ("server.public_url", "https://chat.example.com"),
            ("rocketchat.url", "http://rocketchat:3000"),
            ("rocketchat.user_id", "service-id"),
            ("rocketchat.auth_token", "service-token"),
            ("identity.source", "header"),
            ("identity.header.id", "x-id"),
            ("server.trusted_proxies", "127.0.0.1"),
        ];
        let flags: Vec<_> = base.iter().chain(keys).map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        load(None, [], &flags).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_is_kept_up_to_date_unless_it_is_asked_for() {
        let rules = example(&[]).sync;
        assert!(!rules.any() && !rules.rooms());
        assert!(example(&[("sync.name", "true")]).sync.any());
        let rules = example(&[("sync.teams_by_role", "staff=harbour")]).sync;
        assert!(rules.any() && rules.rooms() && rules.all_teams().eq(["harbour"]));
    }

    #[test]
    fn a_mapping_is_cut_at_its_last_equals_sign() {
        let rules = example(&[("sync.roles", "staff=moderator, cn=ops = leader,staff=owner")]).sync;
        let expected = [("staff", "moderator"), ("cn=ops", "leader"), ("staff", "owner")]
            .map(|(host, gives)| ByRole { host: host.to_owned(), gives: gives.to_owned() });
        assert_eq!(rules.roles, expected);
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (key, value, word) in [
            ("sync.roles", "staff", "host-role=moderator"),
            ("sync.roles", "=x", "host-role=moderator"),
            ("sync.roles", "staff=", "host-role=moderator"),
            ("sync.roles", "staff=Admin", "users.deny_roles"),
            ("sync.roles", "staff=leader,staff=leader", "twice"),
            ("sync.channels", "#general", "without the #"),
            ("sync.channels", "general,general", "twice"),
            ("sync.teams_by_role", "staff", "host-role=general"),
            ("sync.state_file", "/nowhere/at/all.json", "/nowhere/at"),
            ("sync.state_file", "/tmp", "is a directory"),
            ("sync.username", "true", "users.match_by"),
        ] {
            let told = problems(&[(key, value)]);
            assert!(told.len() == 1 && told[0].starts_with(key) && told[0].contains(word), "{key} = {value}: {told:?}");
        }
        assert_eq!(problems(&[("sync.username", "true"), ("users.match_by", "username,email")]), Vec::<String>::new());
        assert_eq!(problems(&[("sync.roles", "staff=admin"), ("users.deny_roles", "bot")]), Vec::<String>::new());
    }
}
