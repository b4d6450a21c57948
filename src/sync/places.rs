//! Channels and teams by name, asked for once in a while.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::What;
use super::wish::Wish;
use crate::rocketchat::{ChangeError, Client, Place};

/// How long the answer holds: a channel may be made, or get another name.
const GOOD_FOR: Duration = Duration::from_mins(10);

/// The channels and teams that were asked for.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<What, (Option<Place>, Instant)>);

impl Places {
    /// The places of a wish, as far as there are such. `absent` is told of those that were looked for in vain just now.
    ///
    /// # Errors
    /// One could not be asked for: which, and why.
    pub(super) async fn of(
        &mut self,
        wish: &Wish,
        client: &Client,
        closed: impl Fn(&What) -> bool,
        mut absent: impl FnMut(&What),
    ) -> Result<BTreeMap<What, Place>, (What, ChangeError)> {
        let channels = wish.channels.iter().cloned().map(What::Channel);
        let wanted = channels.chain(wish.teams.iter().cloned().map(What::Team));
        let mut found = BTreeMap::new();
        for what in wanted {
            let known = self.0.get(&what).filter(|(_, at)| at.elapsed() < GOOD_FOR).map(|(place, _)| place.clone());
            let place = match known {
                Some(place) => place,
                None if closed(&what) => continue,
                None => {
                    let asked = match &what {
                        What::Team(name) => client.find_team(name).await,
                        other => client.find_channel(other.value()).await,
                    };
                    let place = asked.map_err(|error| (what.clone(), error))?;
                    if place.is_none() {
                        absent(&what);
                    }
                    self.0.insert(what.clone(), (place.clone(), Instant::now()));
                    place
                }
            };
            if let Some(place) = place {
                found.insert(what, place);
            }
        }
        Ok(found)
    }

    /// Asks again next time.
    pub(super) fn forget(&mut self, what: &What) {
        self.0.remove(what);
    }

    /// Asks for everything again.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
