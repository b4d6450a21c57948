//! Channels and teams: found by name, and people put into them and taken out again.

use serde_json::{Value, json};

use super::Client;
use super::error::ApiError;
use super::people::ChangeError;
use super::wire::Endpoint;

/// What somebody can be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlaceKind {
    /// A public channel.
    Channel,
    /// A private one. The service account has to be in it.
    Private,
    /// A team.
    Team,
}

/// A channel or a team.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// The room's id; of a team that of its main room, which its members are in.
    pub room: String,
    /// The team's id, where it is one.
    pub team: Option<String>,
    /// Its name.
    pub name: String,
}

impl Client {
    /// The channel of this name, public or private. `None` when there is none that the service account can see.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn find_channel(&self, name: &str) -> Result<Option<Place>, ChangeError> {
        for (endpoint, field, kind) in
            [(Endpoint::ChannelInfo, "channel", PlaceKind::Channel), (Endpoint::GroupInfo, "group", PlaceKind::Private)]
        {
            match self.aside(self.as_service(endpoint).query(&[("roomName", name)])).await {
                Ok(answer) => {
                    let room = answer.pointer(&format!("/{field}/_id")).and_then(Value::as_str);
                    if let Some(room) = room {
                        return Ok(Some(Place { kind, room: room.to_owned(), team: None, name: name.to_owned() }));
                    }
                }
                Err(error) => match self.change_error(endpoint, error).await {
                    ChangeError::Absent(_) | ChangeError::Refused(..) => {}
                    other => return Err(other),
                },
            }
        }
        Ok(None)
    }

    /// The team of this name. `None` when there is none.
    ///
    /// # Errors
    /// It could not be asked, or the service account may not see it.
    pub async fn find_team(&self, name: &str) -> Result<Option<Place>, ChangeError> {
        match self.aside(self.as_service(Endpoint::TeamInfo).query(&[("teamName", name)])).await {
            Ok(answer) => {
                let text = |field: &str| answer.pointer(&format!("/teamInfo/{field}")).and_then(Value::as_str).map(str::to_owned);
                let (Some(team), Some(room)) = (text("_id"), text("roomId")) else { return Ok(None) };
                Ok(Some(Place { kind: PlaceKind::Team, room, team: Some(team), name: name.to_owned() }))
            }
            Err(error) => match self.change_error(Endpoint::TeamInfo, error).await {
                ChangeError::Absent(_) | ChangeError::Refused(..) => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Puts somebody into a channel or team. Being in it already is fine.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn put_into(&self, user_id: &str, place: &Place) -> Result<(), ChangeError> {
        let (endpoint, body) = match place.kind {
            PlaceKind::Channel => (Endpoint::ChannelInvite, json!({ "roomId": place.room, "userId": user_id })),
            PlaceKind::Private => (Endpoint::GroupInvite, json!({ "roomId": place.room, "userId": user_id })),
            PlaceKind::Team => (Endpoint::TeamAdd, json!({ "teamId": place.team, "members": [{ "userId": user_id }] })),
        };
        match self.aside(self.as_service(endpoint).body(body)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.change_error(endpoint, error).await),
        }
    }

    /// Takes somebody out of a channel or team. Not being in it is fine.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn take_out_of(&self, user_id: &str, place: &Place) -> Result<(), ChangeError> {
        let (endpoint, body) = match place.kind {
            PlaceKind::Channel => (Endpoint::ChannelKick, json!({ "roomId": place.room, "userId": user_id })),
            PlaceKind::Private => (Endpoint::GroupKick, json!({ "roomId": place.room, "userId": user_id })),
            PlaceKind::Team => (Endpoint::TeamRemove, json!({ "teamId": place.team, "userId": user_id })),
        };
        match self.aside(self.as_service(endpoint).body(body)).await {
            Ok(_) => Ok(()),
            Err(ApiError::Rejected(no)) if matches!(no.kind.as_str(), "error-user-not-in-room" | "error-not-in-room") => Ok(()),
            Err(error) => match self.change_error(endpoint, error).await {
                // It is gone, and whoever was in it with it.
                ChangeError::Absent(_) => Ok(()),
                other => Err(other),
            },
        }
    }
}
