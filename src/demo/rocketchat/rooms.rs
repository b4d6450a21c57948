//! Channels, private channels and teams over REST: found by name, people put into them and taken out again.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::envelope::ApiError;
use super::meteor::random_id;
use super::rest::Call;
use super::state::State;
use super::user::User;

/// A channel, or a team's main room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// `_id`; made up when empty.
    pub id: String,
    /// The name.
    pub name: String,
    /// Type `p` instead of `c`.
    pub private: bool,
    /// The team's id, where it is one's main room.
    pub team: Option<String>,
    /// Ids of those who are in it.
    pub members: BTreeSet<String>,
    /// Whether nobody is let in any more.
    pub archived: bool,
}

impl Room {
    /// A public channel with nobody in it.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The main room of a public team.
    pub fn team(name: &str) -> Self {
        Self { team: Some(random_id()), ..Self::new(name) }
    }

    fn describe(&self) -> Value {
        json!({ "_id": self.id, "name": self.name, "t": self.kind(), "usersCount": self.members.len(), "archived": self.archived })
    }

    fn kind(&self) -> &'static str {
        if self.private { "p" } else { "c" }
    }
}

/// The rooms of somebody, as `users.info?includeUserRooms=true` tells them.
pub(super) fn of_user(state: &State, user_id: &str) -> Vec<Value> {
    let inside = state.rooms.iter().filter(|room| room.members.contains(user_id));
    inside.map(|room| json!({ "_id": random_id(), "rid": room.id, "name": room.name, "t": room.kind(), "unread": 0 })).collect()
}

fn text<'a>(params: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    params.get(name).and_then(Value::as_str)
}

/// Which of a room's two addresses is given; one of them has to be, and nothing that the schema does not know.
fn one_of<'a>(params: &'a Map<String, Value>, by: [&'static str; 2], more: &[&str]) -> Result<(&'static str, &'a str), ApiError> {
    let mut given = by.into_iter().filter_map(|name| text(params, name).map(|value| (name, value)));
    let (Some(found), None) = (given.next(), given.next()) else {
        return Err(ApiError::params("must match exactly one schema in oneOf"));
    };
    match params.keys().find(|key| !by.contains(&key.as_str()) && !more.contains(&key.as_str())) {
        Some(extra) => Err(ApiError::params(format!("must NOT have additional properties ({extra})"))),
        None => Ok(found),
    }
}

/// Where a channel (`private`: a private one) stands in the list.
fn find(state: &State, call: &Call, (by, value): (&str, &str), private: bool) -> Result<usize, ApiError> {
    let hit = |room: &Room| if by == "roomId" { room.id == value } else { room.name == value };
    let at = state.rooms.iter().position(|room| hit(room) && room.private == private);
    // A private one exists for those who are in it.
    let visible = |at: &usize| !private || call.caller.as_ref().is_some_and(|caller| state.rooms[*at].members.contains(&caller.id));
    let kind = if private { "group" } else { "channel" };
    at.filter(visible).ok_or_else(|| {
        let why = format!("The required \"roomId\" or \"roomName\" param provided does not match any {kind}");
        ApiError::thrown("error-room-not-found", why)
    })
}

/// `GET channels.info` and `GET groups.info`.
pub(super) fn info(state: &State, call: &Call, private: bool) -> Result<Value, ApiError> {
    let params: Map<String, Value> = call.query.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let at = find(state, call, one_of(&params, ["roomId", "roomName"], &[])?, private)?;
    Ok(json!({ if private { "group" } else { "channel" }: state.rooms[at].describe() }))
}

/// `POST channels.invite` and `POST groups.invite`. Somebody who is in already stays in.
pub(super) fn invite(state: &mut State, call: &Call, private: bool) -> Result<Value, ApiError> {
    let body = call.object()?;
    let at = find(state, call, one_of(&body, ["roomId", "roomName"], &["userId", "username", "user"])?, private)?;
    let room = &state.rooms[at];
    if room.archived {
        return Err(ApiError::thrown("error-room-archived", format!("The channel, {}, is archived", room.name)));
    }
    let user = user(state, &body)?;
    let any = if private { "add-user-to-any-p-room" } else { "add-user-to-any-c-room" };
    let inside = room.members.contains(&call.caller()?.id);
    let may = call.may(state, any) || (inside && call.may(state, "add-user-to-joined-room"));
    if !may {
        return Err(ApiError::thrown("error-not-allowed", "Not allowed"));
    }
    state.rooms[at].members.insert(user);
    Ok(json!({ if private { "group" } else { "channel" }: state.rooms[at].describe() }))
}

/// `POST channels.kick` and `POST groups.kick`.
pub(super) fn kick(state: &mut State, call: &Call, private: bool) -> Result<Value, ApiError> {
    let body = call.object()?;
    let at = find(state, call, one_of(&body, ["roomId", "roomName"], &["userId", "username", "user"])?, private)?;
    let user = user(state, &body)?;
    let any = if private { "kick-user-from-any-p-room" } else { "kick-user-from-any-c-room" };
    let inside = state.rooms[at].members.contains(&call.caller()?.id);
    if !call.may(state, "remove-user") || !(inside || call.may(state, any)) {
        return Err(ApiError::thrown("error-not-allowed", "Not allowed"));
    }
    if !state.rooms[at].members.remove(&user) {
        return Err(ApiError::thrown("error-user-not-in-room", "User is not in this room"));
    }
    Ok(json!({ if private { "group" } else { "channel" }: state.rooms[at].describe() }))
}

fn user(state: &State, body: &Map<String, Value>) -> Result<String, ApiError> {
    let found =
        text(body, "userId").and_then(|id| state.user_by_id(id)).or_else(|| text(body, "username").and_then(|name| state.user(name)));
    let unknown = "The required \"userId\" or \"username\" param provided does not match any users";
    found.map(|user: &User| user.id.clone()).ok_or_else(|| ApiError::thrown("error-invalid-user", unknown))
}

fn find_team(state: &State, (by, value): (&str, &str)) -> Option<usize> {
    state.rooms.iter().position(|room| match &room.team {
        Some(team) => {
            if by == "teamId" {
                team == value
            } else {
                room.name == value
            }
        }
        None => false,
    })
}

/// `GET teams.info`
pub(super) fn team_info(state: &State, call: &Call) -> Result<Value, ApiError> {
    // Its own check lets more parameters through.
    let by = ["teamId", "teamName"].into_iter().find_map(|name| call.param(name).map(|value| (name, value)));
    let by = by.ok_or_else(|| ApiError::Failure("Match error: Failed Match.OneOf".into()))?;
    let at = find_team(state, by).ok_or_else(|| ApiError::Failure("Team not found".into()))?;
    let room = &state.rooms[at];
    if room.private && !room.members.contains(&call.caller()?.id) && !call.may(state, "view-all-teams") {
        return Err(ApiError::Forbidden);
    }
    Ok(json!({ "teamInfo": { "_id": room.team, "name": room.name, "roomId": room.id, "type": i32::from(room.private) } }))
}

/// `POST teams.addMembers`
pub(super) fn add_members(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let by = one_of(&body, ["teamId", "teamName"], &["members"])?;
    let members = body.get("members").and_then(Value::as_array).filter(|members| !members.is_empty());
    let members = members.ok_or_else(|| ApiError::params("must have required property 'members'"))?;
    let ids: Option<Vec<String>> = members.iter().map(|member| Some(member.get("userId")?.as_str()?.to_owned())).collect();
    let ids = ids.ok_or_else(|| ApiError::params("must have required property 'userId'"))?;
    let at = find_team(state, by).ok_or_else(|| ApiError::Failure("team-does-not-exist".into()))?;
    if !call.may(state, "add-team-member") && !call.may(state, "edit-team-member") {
        return Err(ApiError::Forbidden);
    }
    state.rooms[at].members.extend(ids);
    Ok(json!({}))
}

/// `POST teams.removeMember`
pub(super) fn remove_member(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    let body = call.object()?;
    let by = one_of(&body, ["teamId", "teamName"], &["userId", "rooms"])?;
    let user = text(&body, "userId").ok_or_else(|| ApiError::params("must have required property 'userId'"))?;
    let at = find_team(state, by).ok_or_else(|| ApiError::Failure("team-does-not-exist".into()))?;
    if !call.may(state, "edit-team-member") {
        return Err(ApiError::Forbidden);
    }
    if state.user_by_id(user).is_none_or(|user| user.inactive) {
        return Err(ApiError::Failure("invalid-user".into()));
    }
    if state.rooms[at].members.remove(user) { Ok(json!({})) } else { Err(ApiError::Silent) }
}
