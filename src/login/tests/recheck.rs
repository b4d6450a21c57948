//! Looks at host sessions behind open chats, by the paused clock.

use super::*;
use crate::login::recheck::{self, Look, judge};
use crate::tokens::Socket;

/// A world whose looks run.
struct Watched {
    world: World,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn watched(keys: &[(&str, &str)]) -> Watched {
    let changed = crate::config::example(keys);
    let world = World::with(|config| {
        (config.session, config.cache, config.limits) = (changed.session.clone(), changed.cache.clone(), changed.limits);
    });
    let login = world.login.clone();
    let task = tokio::spawn(recheck::run(move || login.clone()));
    Watched { world, task }
}

impl Watched {
    /// A person with an account, signed in.
    async fn signed_in(&self, number: u16) -> Chat {
        let name = format!("user{number}");
        self.world.fake.add(user(&format!("u{number}"), &name));
        self.world.session(number, person(&name));
        self.chat(number).await
    }

    async fn chat(&self, number: u16) -> Chat {
        let token = self.world.sign_in(number).await.unwrap().token;
        let Found::Living(chat) = self.world.login.find(token.expose()) else { panic!("it is ours") };
        chat
    }

    async fn open(&self, number: u16) -> Socket {
        self.signed_in(number).await.socket()
    }

    fn says(&self, kind: Option<RefusalKind>) {
        *self.world.script.0.says.lock().unwrap() = kind;
    }

    fn gone(&self, number: u16) {
        self.world.script.0.people.lock().unwrap().remove(&number);
    }

    /// Looks since the last call, with the seconds from `since` on.
    fn looks(&self, since: Instant) -> Vec<(f64, u16)> {
        let log = std::mem::take(&mut *self.world.script.0.log.lock().unwrap());
        log.into_iter().map(|(at, number)| (at.saturating_duration_since(since).as_secs_f64(), number)).collect()
    }

    fn counted(&self, outcome: &str) -> usize {
        self.series(&format!("gantry_session_rechecks_total{{outcome=\"{outcome}\"}}"))
    }

    fn series<T: std::str::FromStr>(&self, name: &str) -> T {
        let text = self.world.login.0.metrics.exposition();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("{name}: {text}"))
    }
}

async fn pass(seconds: u64) {
    // In steps, so that every timer fires in its time.
    for _ in 0..seconds * 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn each_answer_means_one_thing() {
    let validated = |id: &str| {
        let identity = Arc::new(Identity { id: id.to_owned(), ..person("ada") });
        Ok(Arc::new(Validated { identity, expires: None, issued: None, sid: None }))
    };
    let refused = |kind| Err(Refusal::new(kind, "", ""));
    for (outcome, expected) in [
        (validated("7"), Look::Good),
        (validated("8"), Look::Ends(Ending::Switched)),
        (refused(RefusalKind::NoSession), Look::Ends(Ending::SessionEnded)),
        (refused(RefusalKind::UserNotAllowed), Look::Ends(Ending::SessionEnded)),
        (refused(RefusalKind::SessionCheckUnavailable), Look::Unclear),
        (refused(RefusalKind::Misconfigured), Look::Unclear),
        (refused(RefusalKind::RateLimited), Look::Unclear),
        (refused(RefusalKind::RocketchatUnavailable), Look::Unclear),
    ] {
        assert_eq!(judge(&outcome, "7"), expected, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_in_use_is_looked_at_and_no_more_often_than_asked_for() {
    let watched = watched(&[("session.recheck", "60s")]);
    let start = Instant::now();
    let socket = watched.open(1).await;
    let second = socket.chat().socket();
    let _idle = watched.signed_in(2).await;
    watched.looks(start);
    pass(600).await;
    let looks = watched.looks(start);
    assert!(looks.iter().all(|(_, number)| *number == 1), "{looks:?}");
    assert!((9..=11).contains(&looks.len()), "{looks:?}");
    let pauses: Vec<f64> = looks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses.iter().all(|pause| (53.0..=67.0).contains(pause)), "{pauses:?}");
    assert_eq!(watched.series::<usize>("gantry_session_recheck_sessions"), 1);
    drop(socket);
    pass(120).await;
    assert!(!watched.looks(start).is_empty(), "one socket is left");
    drop(second);
    pass(120).await;
    watched.looks(start);
    pass(600).await;
    assert_eq!(watched.looks(start), []);
    assert_eq!(watched.series::<usize>("gantry_session_recheck_sessions"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_rate_holds_and_the_period_stretches() {
    for rate in [1_u32, 20, 120] {
        let watched =
            watched(&[("session.recheck", "1s"), ("session.recheck_rate", &rate.to_string()), ("limits.host_app_calls", "65536")]);
        let many = 2 * u16::try_from(rate).unwrap() + 10;
        let mut sockets = Vec::new();
        for number in 1..=many {
            sockets.push(watched.open(number).await);
        }
        let start = Instant::now();
        watched.looks(start);
        let seconds = 20;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let looks = watched.looks(start);
        for (index, (at, _)) in looks.iter().enumerate() {
            let within = looks[index..].iter().take_while(|(later, _)| *later < at + 0.999).count();
            assert!(within <= rate as usize, "{within} in the second from {at} at {rate}");
        }
        assert!(looks.len() as u64 >= u64::from(rate) * seconds * 9 / 10, "{} at {rate}: no more is lost than has to be", looks.len());
        let mut each: HashMap<u16, u32> = HashMap::new();
        for (_, number) in &looks {
            *each.entry(*number).or_default() += 1;
        }
        let (least, most) = (each.values().min().unwrap(), each.values().max().unwrap());
        assert!(each.len() == usize::from(many) && most - least <= 2, "{least} to {most} at {rate}");
        assert!(watched.series::<f64>("gantry_session_recheck_overdue_seconds") > 0.5, "it shows");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_looks_are_under_way_than_there_is_room_for() {
    let watched = watched(&[("session.recheck", "1s"), ("session.recheck_rate", "1000"), ("limits.host_app_calls", "8")]);
    let mut sockets = Vec::new();
    for number in 1..=20 {
        sockets.push(watched.open(number).await);
    }
    let start = Instant::now();
    watched.looks(start);
    watched.world.script.0.slow.store(true, Ordering::Relaxed);
    let asked = watched.world.script.0.asked.load(Ordering::Relaxed);
    pass(30).await;
    assert_eq!(watched.world.script.0.asked.load(Ordering::Relaxed) - asked, 2, "a quarter of eight");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_gone_switched_or_disabled_ends_the_chat_and_nobody_elses() {
    for (kind, ended) in [(None, "session_ended"), (Some("switched"), "switched"), (Some("disabled"), "session_ended")] {
        let watched = watched(&[("session.recheck", "10s")]);
        let (one, other) = (watched.open(1).await, watched.open(2).await);
        let token = one.chat().token().clone();
        match kind {
            Some("switched") => watched.world.session(1, person("somebody else")),
            _ => watched.gone(1),
        }
        if kind == Some("disabled") {
            watched.says(Some(RefusalKind::UserNotAllowed));
            drop(other);
        }
        tokio::time::timeout(Duration::from_secs(12), one.chat().over()).await.unwrap();
        assert_eq!(watched.counted(ended), 1, "{kind:?}");
        assert!(one.chat().standing().is_none(), "what lets the host app be asked goes with it");
        while watched.world.fake.alive(token.expose()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(watched.world.login.find(token.expose()), Found::Over);
        if kind != Some("disabled") {
            let Found::Living(second) = watched.world.login.find(watched.chat(2).await.token().expose()) else { panic!("living") };
            assert!(!second.is_over());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_app_that_is_down_ends_nothing_before_its_ttl_and_grace() {
    let watched = watched(&[("session.recheck", "10s"), ("cache.sessions.ttl", "30s"), ("session.grace", "5m")]);
    let socket = watched.open(1).await;
    let good = Instant::now();
    for kind in [RefusalKind::SessionCheckUnavailable, RefusalKind::Misconfigured, RefusalKind::RateLimited] {
        watched.says(Some(kind));
        pass(100).await;
        assert!(!socket.chat().is_over(), "{kind:?}");
    }
    assert!(good.elapsed() < Duration::from_secs(330));
    // It was up for a moment: everything begins anew.
    watched.says(None);
    pass(15).await;
    let good = socket.chat().good_at();
    assert!(good.elapsed() < Duration::from_secs(15));
    watched.says(Some(RefusalKind::SessionCheckUnavailable));
    socket.chat().over().await;
    let lived = good.elapsed().as_secs_f64();
    assert!((330.0..=342.0).contains(&lived), "{lived}");
    assert!(watched.counted("unclear") > 30 && watched.counted("session_ended") == 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_socket_has_an_overdue_look_happen_and_costs_nothing_else() {
    let watched = watched(&[("session.recheck", "60s")]);
    let chat = watched.signed_in(1).await;
    let start = Instant::now();
    watched.looks(start);
    for _ in 0..100 {
        watched.world.login.used(&chat);
    }
    pass(2).await;
    assert_eq!(watched.looks(start), [], "it was looked at a moment ago");
    pass(70).await;
    for _ in 0..100 {
        watched.world.login.used(&chat);
        assert_eq!(watched.world.login.find("a token of somebody's own"), Found::Unknown, "there is nothing to be used");
    }
    pass(2).await;
    assert_eq!(watched.looks(start).len(), 1);
    // While the host app does not answer it is not asked with every call.
    watched.says(Some(RefusalKind::SessionCheckUnavailable));
    pass(70).await;
    for _ in 0..100 {
        watched.world.login.used(&chat);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(watched.looks(start).len(), 1);
    watched.says(None);
    watched.gone(1);
    pass(70).await;
    watched.world.login.used(&chat);
    chat.over().await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_after_a_long_silence_is_looked_at_at_once() {
    let watched = watched(&[("session.recheck", "60s")]);
    let chat = watched.signed_in(1).await;
    watched.gone(1);
    pass(3_600).await;
    assert!(!chat.is_over(), "nobody used it");
    let _socket = chat.socket();
    tokio::time::timeout(Duration::from_secs(2), chat.over()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_signs_in_again_right_after_a_logout_is_looked_at_soon() {
    let watched = watched(&[("session.recheck", "10m")]);
    let first = watched.signed_in(1).await;
    watched.world.login.sign_out_of(key(1)).await.unwrap();
    assert!(first.is_over());
    let again = watched.chat(1).await;
    let start = Instant::now();
    watched.looks(start);
    pass(60).await;
    let looks: Vec<f64> = watched.looks(start).into_iter().map(|(at, _)| at.round()).collect();
    assert_eq!(looks, [2.0, 5.0, 10.0]);
    assert!(!again.is_over());
    // The host app's own logout comes a moment later.
    watched.world.login.sign_out_of(key(1)).await.unwrap();
    let again = watched.chat(1).await;
    watched.gone(1);
    tokio::time::timeout(Duration::from_secs(3), again.over()).await.unwrap();
    // Without a logout there is no reason.
    let _ = watched.signed_in(2).await;
    watched.looks(start);
    pass(60).await;
    assert_eq!(watched.looks(start), []);
}

#[tokio::test(start_paused = true)]
async fn a_newer_host_session_of_the_same_browser_takes_the_place_of_the_older_one() {
    // At the bound a further host session shares the token: as a renewed JWT of the same browser does.
    let watched = watched(&[("session.recheck", "10s"), ("cache.tokens_per_user", "1")]);
    let socket = watched.open(1).await;
    watched.world.session(2, person("user1"));
    let shared = watched.chat(2).await;
    assert!(shared == *socket.chat());
    watched.gone(1);
    pass(60).await;
    assert!(!socket.chat().is_over(), "the older one has run out, the newer one has not");
    // Seen while a look is under way at the older one.
    watched.world.script.0.slow.store(true, Ordering::Relaxed);
    watched.world.session(3, person("user1"));
    pass(11).await;
    watched.gone(2);
    let validated = Validated { identity: Arc::new(person("user1")), expires: None, issued: None, sid: None };
    watched.world.login.0.standings.confirm(socket.chat(), &Presented::Scripted(key(3)), &validated);
    watched.world.script.0.slow.store(false, Ordering::Relaxed);
    pass(120).await;
    assert!(!socket.chat().is_over());
    assert_eq!(watched.counted("superseded"), 1);
    watched.gone(3);
    pass(12).await;
    assert!(socket.chat().is_over());
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_what_is_forgotten_ends_in_the_end() {
    let watched =
        watched(&[("session.recheck", "10s"), ("cache.tokens.capacity", "50"), ("session.grace", "60s"), ("cache.sessions.ttl", "30s")]);
    let mut chats = Vec::new();
    for number in 1..=80 {
        chats.push(watched.signed_in(number).await);
    }
    watched.world.login.0.standings.settle();
    let known = chats.iter().filter(|chat| chat.standing().is_some()).count();
    assert!(known <= 50, "{known}");
    assert!(chats[79].standing().is_some() && chats[0].standing().is_none(), "the least used goes");
    let socket = chats[0].socket();
    pass(60).await;
    assert!(!socket.chat().is_over() && watched.counted("forgotten") > 1);
    pass(45).await;
    assert!(socket.chat().is_over());
}

#[tokio::test(start_paused = true)]
async fn of_what_has_ended_little_is_kept() {
    let watched = watched(&[("session.recheck", "10m")]);
    let standings = &watched.world.login.0.standings;
    let living = watched.open(1).await;
    for number in 2..=2_500 {
        let chat = watched.signed_in(number).await;
        let token = chat.token().expose().to_owned();
        watched.world.login.token_logged_out(&token);
        assert!(chat.is_over());
    }
    let [chats, found_by] = standings.settle();
    assert!(chats <= 1_100 && found_by <= 1_100, "{chats} {found_by}");
    let living_by = standings.by(&crate::login::standing::By::Identity("id-user1".to_owned()));
    assert!(living_by.iter().any(|(chat, _)| chat == living.chat()));
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_one_look_loses_nobody() {
    let watched = watched(&[("session.recheck", "10s")]);
    let socket = watched.open(1).await;
    let validated = Validated { identity: Arc::new(person("user1")), expires: None, issued: None, sid: None };
    watched.world.login.0.standings.confirm(socket.chat(), &Presented::Scripted(key(u16::MAX)), &validated);
    pass(35).await;
    let panics = watched.looks(Instant::now()).iter().filter(|(_, number)| *number == u16::MAX).count();
    assert!(panics >= 3, "{panics}");
}

#[tokio::test(start_paused = true)]
async fn looks_can_be_switched_off_and_on_again() {
    let watched = watched(&[("session.recheck", "0s")]);
    let socket = watched.open(1).await;
    watched.world.login.used(socket.chat());
    watched.looks(Instant::now());
    pass(600).await;
    assert_eq!(watched.looks(Instant::now()), []);
    // A reload brings them back, for those that were open already.
    let mut config = config();
    config.session = crate::config::example(&[("session.recheck", "5s")]).session;
    let kept = Kept { sessions: true, accounts: true, tokens: true };
    let login = watched.world.login.renewed(&config, None, watched.world.fake.client(&config), kept);
    let task = tokio::spawn(recheck::run(move || login.clone()));
    pass(11).await;
    assert!(!watched.looks(Instant::now()).is_empty());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn standings_outlive_a_reload_that_changes_their_number() {
    let watched = watched(&[("session.recheck", "10m")]);
    let socket = watched.open(1).await;
    let mut config = config();
    config.session = crate::config::example(&[("session.recheck", "5s")]).session;
    config.cache.tokens.capacity = 77;
    let kept = Kept { sessions: true, accounts: true, tokens: true };
    let login = watched.world.login.renewed(&config, None, watched.world.fake.client(&config), kept);
    assert_eq!(login.0.standings.by(&crate::login::standing::By::Identity("id-user1".to_owned())).len(), 1);
    watched.gone(1);
    let task = tokio::spawn(recheck::run(move || login.clone()));
    tokio::time::timeout(Duration::from_secs(10), socket.chat().over()).await.unwrap();
    task.abort();
}
