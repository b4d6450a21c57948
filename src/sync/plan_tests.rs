//! Plans: what is done about an account, and what never is.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::wish::Username;
use super::*;
use crate::config::example;
use crate::rocketchat::User;

const DENIED: [&str; 3] = ["admin", "bot", "app"];

fn users() -> Users {
    // Read once: thousands of plans are made by it.
    static USERS: LazyLock<Users> = LazyLock::new(|| example(&[]).users);
    USERS.clone()
}

fn set<const N: usize>(all: [&str; N]) -> BTreeSet<String> {
    all.into_iter().map(str::to_owned).collect()
}

fn account(roles: &[&str], rooms: Option<&[&str]>) -> Looked {
    Looked {
        user: User {
            id: "u1".into(),
            username: Some("ada".into()),
            emails: Some(vec!["ada@example.com".into()]),
            active: Some(true),
            roles: Some(roles.iter().map(ToString::to_string).collect()),
            ..User::default()
        },
        name: Some("Ada".into()),
        rooms: rooms.map(|rooms| rooms.iter().map(ToString::to_string).collect()),
    }
}

fn channel(name: &str) -> Place {
    Place { kind: PlaceKind::Channel, room: format!("id-{name}"), team: None, name: name.into() }
}

fn places(channels: &[&str], teams: &[&str]) -> BTreeMap<What, Place> {
    let teams = teams.iter().map(|name| {
        let place = Place { kind: PlaceKind::Team, room: format!("id-{name}"), team: Some(format!("team-{name}")), name: (*name).into() };
        (What::Team((*name).into()), place)
    });
    channels.iter().map(|name| (What::Channel((*name).into()), channel(name))).chain(teams).collect()
}

fn planned(wish: &Wish, looked: &Looked, given: &Given, places: &BTreeMap<What, Place>) -> Plan {
    plan(&users(), wish, looked, given, places, |_| false)
}

#[test]
fn nothing_is_written_that_is_as_it_should_be() {
    let wish = Wish {
        name: Some("Ada".into()),
        email: Some(("ada@example.com".into(), true)),
        username: Some(Username { wanted: "ada".into(), marked: None }),
        roles: set(["leader"]),
        channels: set(["general"]),
        ..Wish::default()
    };
    let looked = account(&["user", "leader"], Some(&["id-general"]));
    let plan = planned(&wish, &looked, &Given::default(), &places(&["general"], &[]));
    assert_eq!(plan.writes, []);
    assert_eq!(plan.given.roles, set([]), "they had it before, so it is not ours");
    assert_eq!(plan.given.found, set(["id-general"]));
}

#[test]
fn a_profile_changes_in_one_write_and_only_where_it_differs() {
    let wish = Wish {
        name: Some("Ada L.".into()),
        email: Some(("new@example.com".into(), false)),
        username: Some(Username { wanted: "ada.l".into(), marked: Some("ada-g1".into()) }),
        ..Wish::default()
    };
    let looked = account(&["user"], None);
    let expected = Profile { name: Some("Ada L.".into()), email: Some(("new@example.com".into(), false)), username: Some("ada.l".into()) };
    assert_eq!(planned(&wish, &looked, &Given::default(), &BTreeMap::new()).writes, [Write::Profile(expected)]);
    // A second address of theirs, and the name that stands in where the wanted one is taken.
    let mut other = account(&["user"], None);
    other.user.emails = Some(vec!["ada@example.com".into(), "New@example.com".to_lowercase()]);
    other.user.username = Some("ada-g1".into());
    other.name = Some(" Ada L. ".into());
    assert_eq!(planned(&wish, &other, &Given::default(), &BTreeMap::new()).writes, []);
    // Addresses that cannot be seen are not written over.
    other.user.emails = None;
    assert_eq!(planned(&wish, &other, &Given::default(), &BTreeMap::new()).writes, []);
    // What was refused is left out, and the rest is not.
    let plan = plan(&users(), &wish, &looked, &Given::default(), &BTreeMap::new(), |what| matches!(what, What::Email(_)));
    let Some(Write::Profile(rest)) = plan.writes.first() else { panic!("{plan:?}") };
    assert!(rest.email.is_none() && rest.name.is_some() && rest.username.is_some());
}

#[test]
fn a_role_is_taken_away_only_if_it_was_given_from_here() {
    let ours = Given { roles: set(["leader"]), ..Given::default() };
    let looked = account(&["user", "leader", "owner"], None);
    let none = BTreeMap::new();
    assert_eq!(planned(&Wish::default(), &looked, &Given::default(), &none).writes, [], "without a record nothing is taken");
    assert_eq!(planned(&Wish::default(), &looked, &ours, &none).writes, [Write::Take("leader".into())]);
    // An administrator took it away: forgotten, and given again if it is wanted.
    let without = account(&["user"], None);
    let plan = planned(&Wish::default(), &without, &ours, &none);
    assert!(plan.writes.is_empty() && plan.given.roles.is_empty());
    let wish = Wish { roles: set(["leader"]), ..Wish::default() };
    assert_eq!(planned(&wish, &without, &ours, &none).writes, [Write::Give("leader".into())]);
    // Roles that cannot be seen are neither given nor taken.
    let blind = Looked { user: User { roles: None, ..looked.user.clone() }, ..looked };
    assert_eq!(planned(&wish, &blind, &ours, &none).writes, []);
}

#[test]
fn who_left_a_room_is_not_put_back_and_who_was_in_it_is_not_taken_out() {
    let wish = Wish { channels: set(["general"]), teams: set(["harbour"]), ..Wish::default() };
    let all = places(&["general"], &["harbour"]);
    let outside = account(&["user"], Some(&[]));
    let plan = planned(&wish, &outside, &Given::default(), &all);
    assert_eq!(plan.writes.len(), 2);
    let mut given = plan.given;
    for write in &plan.writes {
        given.note(write, true);
    }
    assert_eq!(planned(&wish, &outside, &given, &all).writes, [], "they have left since");
    // Not wanted any more: taken out of what they were put into, if they are in it.
    let inside = account(&["user"], Some(&["id-general", "id-harbour", "id-other"]));
    let taken = planned(&Wish::default(), &inside, &given, &BTreeMap::new()).writes;
    assert!(taken.len() == 2 && taken.iter().all(|write| matches!(write, Write::Leave(place) if place.name != "other")), "{taken:?}");
    let plan = planned(&Wish::default(), &outside, &given, &BTreeMap::new());
    assert!(plan.writes.is_empty() && plan.given.places.is_empty());
    // They were in it before us.
    let plan = planned(&wish, &inside, &Given::default(), &all);
    assert!(plan.writes.is_empty() && plan.given.places.is_empty());
    assert_eq!(planned(&Wish::default(), &inside, &plan.given, &BTreeMap::new()).writes, []);
}

#[test]
fn where_rooms_cannot_be_seen_nothing_is_claimed() {
    let wish = Wish { channels: set(["general"]), ..Wish::default() };
    let looked = account(&["user"], None);
    let plan = planned(&wish, &looked, &Given::default(), &places(&["general"], &[]));
    assert_eq!(plan.writes, [Write::Join(channel("general"))]);
    let mut given = plan.given;
    given.note(&plan.writes[0], false);
    assert!(given.places.is_empty(), "they may have been in it");
    assert_eq!(planned(&wish, &looked, &given, &places(&["general"], &[])).writes, [], "once is enough");
    assert_eq!(planned(&Wish::default(), &looked, &given, &BTreeMap::new()).writes, []);
}

#[test]
fn a_channel_with_a_new_name_is_the_same_channel() {
    let old = channel("old");
    let mut given = Given::default();
    given.note(&Write::Join(old.clone()), true);
    let looked = account(&["user"], Some(&["id-old"]));
    let wish = Wish { channels: set(["new"]), ..Wish::default() };
    let renamed = BTreeMap::from([(What::Channel("new".into()), Place { name: "new".into(), ..old })]);
    assert_eq!(planned(&wish, &looked, &given, &renamed).writes, []);
    // The configuration has the old name still, which leads to nothing any more.
    let wish = Wish { channels: set(["old"]), ..Wish::default() };
    assert_eq!(planned(&wish, &looked, &given, &BTreeMap::new()).writes, []);
}

#[test]
fn a_picture_is_set_once_for_each_address() {
    let wish = |url: &str| Wish { avatar: Some(url.into()), ..Wish::default() };
    let looked = account(&["user"], None);
    let mut given = Given::default();
    let first = planned(&wish("https://a/1"), &looked, &given, &BTreeMap::new()).writes;
    assert_eq!(first, [Write::Avatar("https://a/1".into())]);
    given.note(&first[0], true);
    assert!(!format!("{given:?}").contains("https://"), "the record holds no address");
    assert_eq!(planned(&wish("https://a/1"), &looked, &given, &BTreeMap::new()).writes, []);
    assert_eq!(planned(&wish("https://a/2"), &looked, &given, &BTreeMap::new()).writes.len(), 1);
    assert_eq!(planned(&Wish::default(), &looked, &given, &BTreeMap::new()).writes, [], "no picture takes none away");
}

#[test]
fn accounts_that_nobody_is_signed_in_to_are_left_alone() {
    let good = account(&["user"], None);
    assert_eq!(left_alone(&users(), "service", &good), None);
    let with = |change: fn(&mut User)| {
        let mut looked = good.clone();
        change(&mut looked.user);
        looked
    };
    for (looked, word) in [
        (with(|user| user.id = "service".into()), "service account"),
        (with(|user| user.federated = true), "another server"),
        (with(|user| user.kind = Some("bot".into())), "bot"),
        (with(|user| user.kind = Some("app".into())), "app"),
        (with(|user| user.active = Some(false)), "not active"),
        (with(|user| user.active = None), "not active"),
        (with(|user| user.roles = None), "view-full-other-user-info"),
        (with(|user| user.roles = Some(vec!["user".into(), "Admin".into()])), "users.deny_roles"),
    ] {
        let why = left_alone(&users(), "service", &looked);
        assert!(why.is_some_and(|why| why.contains(word)), "{word}: {why:?}");
    }
}

/// What the workspace would be like after these writes.
fn apply(writes: &[Write], looked: &mut Looked, given: &mut Given) {
    let certain = looked.rooms.is_some();
    for write in writes {
        given.note(write, certain);
        let roles = looked.user.roles.get_or_insert_with(Vec::new);
        match write {
            Write::Profile(profile) => {
                looked.name = profile.name.clone().or(looked.name.take());
                looked.user.username = profile.username.clone().or(looked.user.username.take());
                if let Some((email, _)) = &profile.email {
                    looked.user.emails = Some(vec![email.clone()]);
                }
            }
            Write::Avatar(_) => {}
            Write::Give(role) => roles.push(role.clone()),
            Write::Take(role) => roles.retain(|known| known != role),
            Write::Join(place) => {
                looked.rooms.as_mut().map(|rooms| rooms.insert(place.room.clone()));
            }
            Write::Leave(place) => {
                looked.rooms.as_mut().map(|rooms| rooms.remove(&place.room));
            }
        }
    }
}

const ROLES: [&str; 6] = ["leader", "owner", "moderator", "admin", "Bot", "user"];
const NAMES: [&str; 4] = ["general", "berths", "cranes", "weather"];

fn some(of: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    proptest::sample::subsequence(of, 0..=of.len()).prop_map(|all| all.into_iter().map(str::to_owned).collect())
}

fn wishes() -> impl Strategy<Value = Wish> {
    let text = || proptest::option::of("[a-c]{1,3}");
    (text(), text(), text(), text(), some(&ROLES), some(&NAMES), some(&NAMES[..2])).prop_map(
        |(name, email, username, avatar, roles, channels, teams)| Wish {
            name,
            email: email.map(|local| (format!("{local}@example.com"), true)),
            username: username.map(|wanted| Username { marked: Some(format!("{wanted}-g1")), wanted }),
            avatar: avatar.map(|path| format!("https://a.example/{path}")),
            roles,
            channels,
            teams: teams.into_iter().map(|name| format!("team-{name}")).collect(),
        },
    )
}

fn accounts() -> impl Strategy<Value = Looked> {
    let rooms = proptest::option::of(proptest::collection::btree_set("id-(team-)?(general|berths|cranes|weather|other)", 0..6));
    (some(&ROLES), rooms, "[a-c]{1,3}", "[a-c]{1,3}").prop_map(|(roles, rooms, name, local)| {
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        let mut looked = account(&roles, None);
        (looked.rooms, looked.name) = (rooms, Some(name));
        looked.user.emails = Some(vec![format!("{local}@example.com")]);
        looked
    })
}

fn records() -> impl Strategy<Value = Given> {
    let put = (proptest::sample::select(&NAMES[..]), any::<bool>(), any::<bool>()).prop_map(|(name, team, private)| Put {
        room: if team { format!("id-team-{name}") } else { format!("id-{name}") },
        team: team.then(|| format!("team-of-{name}")),
        private: private && !team,
        name: if team { format!("team-{name}") } else { name.to_owned() },
    });
    (some(&ROLES), proptest::collection::vec(put, 0..4), some(&NAMES)).prop_map(|(roles, puts, found)| {
        let mut places: BTreeSet<Put> = BTreeSet::new();
        for put in puts {
            if places.iter().all(|known| known.room != put.room) {
                places.insert(put);
            }
        }
        Given { roles, places, found: found.into_iter().map(|name| format!("id-{name}")).collect(), avatar: None }
    })
}

fn everywhere() -> BTreeMap<What, Place> {
    places(&NAMES, &["team-general", "team-berths"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_taken_that_is_not_recorded(wish in wishes(), looked in accounts(), given in records()) {
        for write in planned(&wish, &looked, &given, &everywhere()).writes {
            match write {
                Write::Take(role) => prop_assert!(given.roles.contains(&role) && !wish.roles.contains(&role)),
                Write::Leave(place) => prop_assert!(given.places.iter().any(|put| put.room == place.room)),
                Write::Profile(_) | Write::Avatar(_) | Write::Give(_) | Write::Join(_) => {}
            }
        }
        for write in planned(&wish, &looked, &Given::default(), &everywhere()).writes {
            prop_assert!(!matches!(write, Write::Take(_) | Write::Leave(_)), "{write:?} without a record");
        }
    }

    #[test]
    fn denied_roles_are_never_named(wish in wishes(), looked in accounts(), given in records()) {
        for write in planned(&wish, &looked, &given, &everywhere()).writes {
            if let Write::Give(role) | Write::Take(role) = write {
                prop_assert!(DENIED.iter().all(|denied| !denied.eq_ignore_ascii_case(&role)), "{role}");
            }
        }
    }

    #[test]
    fn what_is_done_is_done(wish in wishes(), looked in accounts(), given in records()) {
        let first = planned(&wish, &looked, &given, &everywhere());
        let (mut after, mut given) = (looked.clone(), first.given.clone());
        apply(&first.writes, &mut after, &mut given);
        let second = planned(&wish, &after, &given, &everywhere());
        prop_assert_eq!(&second.writes, &Vec::new(), "{:?}", first);
        prop_assert_eq!(&second.given.places, &given.places);
    }

    #[test]
    fn what_is_closed_is_not_tried(wish in wishes(), looked in accounts(), given in records()) {
        let next = plan(&users(), &wish, &looked, &given, &everywhere(), |_| true);
        prop_assert_eq!(next.writes, Vec::new());
    }
}
