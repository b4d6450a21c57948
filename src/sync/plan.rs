//! What is to be done about an account: a pure comparison of what should be with what is.
//!
//! Nothing is taken away that was not given from here, and a role of `users.deny_roles` is neither given nor taken.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::wish::Wish;
use crate::config::Users;
use crate::rocketchat::{Looked, Place, PlaceKind, Profile, ProfileField};

/// One thing about an account, with the value that it should have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum What {
    Name(String),
    Email(String),
    Username(String),
    Avatar(String),
    Role(String),
    Channel(String),
    Team(String),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Profile(Profile),
    Avatar(String),
    Give(String),
    Take(String),
    Join(Place),
    Leave(Place),
}

/// What was given to somebody from here, and so may be taken away again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Given {
    /// Role ids.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) roles: BTreeSet<String>,
    /// Channels and teams.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) places: BTreeSet<Put>,
    /// Rooms that they were in already, or may have been: they are not put into them again, and not taken out.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) found: BTreeSet<String>,
    /// A hash of the picture's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) avatar: Option<String>,
}

/// A channel or team that somebody was put into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    pub(super) room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) team: Option<String>,
    #[serde(default)]
    pub(super) private: bool,
    pub(super) name: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    /// The record, without what no longer holds.
    pub(super) given: Given,
}

impl What {
    /// The label in metrics, and the word in the log.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Email(_) => "email",
            Self::Username(_) => "username",
            Self::Avatar(_) => "avatar",
            Self::Role(_) => "role",
            Self::Channel(_) => "channel",
            Self::Team(_) => "team",
        }
    }

    /// The value: for all but roles, channels and teams it is about a person.
    pub(super) fn value(&self) -> &str {
        match self {
            Self::Name(value)
            | Self::Email(value)
            | Self::Username(value)
            | Self::Avatar(value)
            | Self::Role(value)
            | Self::Channel(value)
            | Self::Team(value) => value,
        }
    }

    /// Whether the value tells something of a person.
    pub(super) fn is_personal(&self) -> bool {
        !matches!(self, Self::Role(_) | Self::Channel(_) | Self::Team(_))
    }

    pub(super) fn of_place(place: &Place) -> Self {
        let name = place.name.clone();
        if place.kind == PlaceKind::Team { Self::Team(name) } else { Self::Channel(name) }
    }
}

impl Write {
    /// What it changes.
    pub(super) fn about(&self) -> Vec<What> {
        match self {
            Self::Profile(profile) => {
                let name = profile.name.clone().map(What::Name);
                let email = profile.email.as_ref().map(|(email, _)| What::Email(email.clone()));
                let username = profile.username.clone().map(What::Username);
                [name, email, username].into_iter().flatten().collect()
            }
            Self::Avatar(url) => vec![What::Avatar(url.clone())],
            Self::Give(role) | Self::Take(role) => vec![What::Role(role.clone())],
            Self::Join(place) | Self::Leave(place) => vec![What::of_place(place)],
        }
    }

    /// Of what it changes, what a refusal of this field means.
    pub(super) fn blamed(&self, field: Option<ProfileField>) -> Vec<What> {
        let mut about = self.about();
        if let Some(field) = field {
            about.retain(|what| {
                matches!(
                    (what, field),
                    (What::Name(_), ProfileField::Name)
                        | (What::Email(_), ProfileField::Email)
                        | (What::Username(_), ProfileField::Username)
                )
            });
        }
        about
    }
}

impl Put {
    fn of(place: &Place) -> Self {
        Self { room: place.room.clone(), team: place.team.clone(), private: place.kind == PlaceKind::Private, name: place.name.clone() }
    }

    fn place(&self) -> Place {
        let kind = match (&self.team, self.private) {
            (Some(_), _) => PlaceKind::Team,
            (None, true) => PlaceKind::Private,
            (None, false) => PlaceKind::Channel,
        };
        Place { kind, room: self.room.clone(), team: self.team.clone(), name: self.name.clone() }
    }
}

impl Given {
    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something could be taken away by it.
    pub(super) fn holds_something(&self) -> bool {
        !self.roles.is_empty() || !self.places.is_empty()
    }

    /// A change was made. `certain` says that somebody was not in the room before.
    pub(super) fn note(&mut self, write: &Write, certain: bool) {
        match write {
            Write::Profile(_) => {}
            Write::Avatar(url) => self.avatar = Some(digest(url)),
            Write::Give(role) => {
                self.roles.insert(role.clone());
            }
            Write::Take(role) => {
                self.roles.remove(role);
            }
            Write::Join(place) if certain => {
                self.places.insert(Put::of(place));
            }
            Write::Join(place) => {
                self.found.insert(place.room.clone());
            }
            Write::Leave(place) => {
                self.places.retain(|put| put.room != place.room);
            }
        }
    }
}

/// Why an account is left alone altogether; `None` when it is not.
pub(super) fn left_alone(users: &Users, service_id: &str, looked: &Looked) -> Option<&'static str> {
    let user = &looked.user;
    if user.id == service_id {
        return Some("it is the service account");
    }
    if user.federated {
        return Some("it belongs to a person on another server");
    }
    if matches!(user.kind.as_deref(), Some("bot" | "app")) {
        return Some("it is a bot's or an app's");
    }
    if user.active != Some(true) {
        return Some("it is not active");
    }
    let Some(roles) = &user.roles else {
        return Some("its roles cannot be seen: the service account lacks the permission view-full-other-user-info");
    };
    let denied = roles.iter().any(|role| users.deny_roles.iter().any(|denied| denied.eq_ignore_ascii_case(role)));
    denied.then_some("it has a role of users.deny_roles")
}

/// Compares. `places` are the channels and teams that are wanted, as far as there are such; `closed` says what is not
/// to be tried at the moment.
pub(super) fn plan(
    users: &Users,
    wish: &Wish,
    looked: &Looked,
    given: &Given,
    places: &BTreeMap<What, Place>,
    closed: impl Fn(&What) -> bool,
) -> Plan {
    let mut next = Plan { writes: Vec::new(), given: given.clone() };
    let profile = profile(wish, looked, &closed);
    if !profile.is_empty() {
        next.writes.push(Write::Profile(profile));
    }
    if let Some(url) = &wish.avatar
        && given.avatar.as_deref() != Some(digest(url).as_str())
        && !closed(&What::Avatar(url.clone()))
    {
        next.writes.push(Write::Avatar(url.clone()));
    }
    roles(users, wish, looked, &closed, &mut next);
    rooms(wish, looked, places, &closed, &mut next);
    next
}

fn profile(wish: &Wish, looked: &Looked, closed: impl Fn(&What) -> bool) -> Profile {
    let user = &looked.user;
    let name = wish.name.clone().filter(|name| looked.name.as_deref().map(str::trim) != Some(name) && !closed(&What::Name(name.clone())));
    // Where addresses cannot be seen nothing is known about this one.
    let email =
        wish.email.clone().filter(|(email, _)| user.emails.is_some() && !user.has_email(email) && !closed(&What::Email(email.clone())));
    let username = wish.username.as_ref().filter(|username| {
        let has = user.username.as_deref();
        has != Some(&username.wanted) && has != username.marked.as_deref() && !closed(&What::Username(username.wanted.clone()))
    });
    Profile { name, email, username: username.map(|username| username.wanted.clone()) }
}

fn roles(users: &Users, wish: &Wish, looked: &Looked, closed: impl Fn(&What) -> bool, next: &mut Plan) {
    let Some(has) = &looked.user.roles else { return };
    let denied = |role: &str| users.deny_roles.iter().any(|denied| denied.eq_ignore_ascii_case(role));
    for role in wish.roles.iter().filter(|role| !has.contains(role) && !denied(role) && !closed(&What::Role((*role).clone()))) {
        next.writes.push(Write::Give(role.clone()));
    }
    let unwanted: Vec<String> = next.given.roles.difference(&wish.roles).cloned().collect();
    for role in unwanted {
        if !has.contains(&role) {
            // Somebody else was quicker.
            next.given.roles.remove(&role);
        } else if !denied(&role) && !closed(&What::Role(role.clone())) {
            next.writes.push(Write::Take(role));
        }
    }
}

fn rooms(wish: &Wish, looked: &Looked, places: &BTreeMap<What, Place>, closed: impl Fn(&What) -> bool, next: &mut Plan) {
    let inside = |room: &str| looked.rooms.as_ref().map(|rooms| rooms.contains(room));
    let named = |what: &What| match what {
        What::Channel(name) => wish.channels.contains(name),
        What::Team(name) => wish.teams.contains(name),
        _ => false,
    };
    let wanted: Vec<(&What, &Place)> = places.iter().filter(|(what, _)| named(what)).collect();
    // By id as well: a channel that was given another name is the same one.
    let still = |put: &Put| named(&What::of_place(&put.place())) || wanted.iter().any(|(_, place)| place.room == put.room);
    for (what, place) in &wanted {
        let ours = next.given.places.iter().any(|put| put.room == place.room);
        if ours || next.given.found.contains(&place.room) {
            // Whoever has left since then meant it.
            continue;
        }
        if inside(&place.room) == Some(true) {
            next.given.found.insert(place.room.clone());
        } else if !closed(what) {
            next.writes.push(Write::Join((*place).clone()));
        }
    }
    let wanted_rooms: BTreeSet<&str> = wanted.iter().map(|(_, place)| place.room.as_str()).collect();
    next.given.found.retain(|room| wanted_rooms.contains(room.as_str()));
    let unwanted: Vec<Put> = next.given.places.iter().filter(|put| !still(put)).cloned().collect();
    for put in unwanted {
        match inside(&put.room) {
            Some(false) => {
                next.given.places.remove(&put);
            }
            Some(true) | None if !closed(&What::of_place(&put.place())) => next.writes.push(Write::Leave(put.place())),
            Some(true) | None => {}
        }
    }
}

/// What stands for a picture's address in the record: whoever can read that learns no address.
fn digest(url: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, url.as_bytes()).as_ref()[..16])
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
