use super::*;
use Side::{Backup, Primary};
use proptest::prelude::*;

const T: Thresholds = Thresholds {
    misses: 3,
    of: 4,
    returns: 3,
    failback_after: Some(Duration::from_secs(10)),
    orphan_after: Duration::from_secs(10),
};

fn report(epoch: u64, role: Role) -> Option<Report> {
    let peer_whole = (role == Role::Primary).then_some(true);
    Some(Report { mark: Some(Mark::new(epoch, role, "")), writable: role == Role::Primary, peer_whole, ..Report::default() })
}

fn up(epoch: u64, role: Role) -> Answer {
    Answer { nfs: true, report: report(epoch, role) }
}

fn dead() -> Answer {
    Answer::default()
}

/// A client, one round a second.
struct Client {
    state: State,
    now: Duration,
}

impl Client {
    fn mounted_on_the_primary() -> Client {
        let mut c = Client { state: State::default(), now: Duration::ZERO };
        assert_eq!(c.see(&well()), [Action::Switch { to: Primary, dead: false }]);
        c.state = done(&c.state, Some(Primary));
        c
    }

    fn see(&mut self, answers: &[Answer; 2]) -> Vec<Action> {
        self.now += Duration::from_secs(1);
        self.on_answers(answers.clone().map(Some))
    }

    fn on_answers(&mut self, answers: [Option<Answer>; 2]) -> Vec<Action> {
        let (state, actions) = step(&self.state, &answers, &T, self.now);
        self.state = state;
        actions
    }

    /// The reply shows its promotion, before any report.
    fn promoted(&mut self, to: Side, epoch: u64) -> Vec<Action> {
        self.state = done(&promoted(&self.state, to, &Mark::new(epoch, Role::Primary, "")), self.state.on);
        self.on_answers([None, None])
    }

    fn done(&mut self, mounted: Side) {
        self.state = done(&self.state, Some(mounted));
    }
}

fn well() -> [Answer; 2] {
    [up(1, Role::Primary), up(1, Role::Follower)]
}

#[test]
fn the_primary_dies_and_comes_back() {
    let mut c = Client::mounted_on_the_primary();
    let cut = [dead(), up(1, Role::Follower)];
    assert_eq!(c.see(&cut), []);
    assert_eq!(c.see(&cut), []);
    assert_eq!(c.see(&cut), [Action::Promote { to: Backup, above: 1 }]);
    assert_eq!(c.see(&cut), [], "one thing at a time");
    c.done(Primary);
    let promoted = [dead(), up(2, Role::Primary)];
    assert_eq!(c.see(&promoted), [Action::Switch { to: Backup, dead: true }]);
    c.done(Backup);
    // It comes back, as the primary it was: its epoch is old.
    let back = [up(1, Role::Primary), up(2, Role::Primary)];
    for _ in 0..20 {
        assert_eq!(c.see(&back), []);
    }
    // It has stepped down; fail-back begins once it has been alive for long enough, and is
    // requested again only later.
    let follower = [up(1, Role::Follower), up(2, Role::Primary)];
    assert_eq!(c.see(&follower), [Action::HandOver { from: Backup }]);
    for _ in 0..14 {
        assert_eq!(c.see(&follower), []);
    }
    assert_eq!(c.see(&follower), [Action::HandOver { from: Backup }]);
    let handed = [up(3, Role::Primary), up(2, Role::Follower)];
    assert_eq!(c.see(&handed), [Action::Switch { to: Primary, dead: false }]);
}

#[test]
fn decisions() {
    let mut split = well();
    split[1] = up(1, Role::Primary);
    let mut no_agent = [dead(), up(1, Role::Follower)];
    no_agent[1].report = None;
    let stale = |mut a: [Answer; 2]| {
        a[0].report.as_mut().unwrap().peer_whole = Some(false);
        a
    };
    let promote = vec![Action::Promote { to: Backup, above: 1 }];
    let alarm = |a| vec![Action::Alarm(a)];
    for (name, before, answers, rounds, want) in [
        ("all is well", well(), well(), 30, vec![]),
        ("cut", well(), [dead(), up(1, Role::Follower)], 3, promote.clone()),
        ("one answer in four", well(), [dead(), up(1, Role::Follower)], 2, vec![]),
        (
            "service stopped, host and its role up",
            well(),
            [Answer { nfs: false, ..up(1, Role::Primary) }, up(1, Role::Follower)],
            3,
            promote,
        ),
        ("both dead", well(), [dead(), dead()], 3, alarm(Alarm::BothDead)),
        ("the backup dies", well(), [up(1, Role::Primary), dead()], 9, vec![]),
        (
            "another client was faster",
            well(),
            [up(1, Role::Primary), up(2, Role::Primary)],
            1,
            vec![Action::Switch { to: Backup, dead: false }],
        ),
        (
            "promoted by hand",
            well(),
            [up(1, Role::Follower), up(5, Role::Primary)],
            1,
            vec![Action::Switch { to: Backup, dead: false }],
        ),
        ("split brain", well(), split, 5, alarm(Alarm::SplitBrain)),
        ("the backup cannot be promoted", well(), no_agent, 3, alarm(Alarm::NoAgent)),
        ("the copy is not whole", stale(well()), [dead(), up(1, Role::Follower)], 3, alarm(Alarm::CopyNotWhole)),
        (
            "a damaged mark on the primary alone changes nothing",
            well(),
            [Answer { nfs: true, report: Some(Report::default()) }, up(1, Role::Follower)],
            30,
            vec![],
        ),
    ] {
        let mut c = Client::mounted_on_the_primary();
        c.see(&before);
        let all: Vec<Action> = (0..rounds).flat_map(|_| c.see(&answers)).collect();
        assert_eq!(all, want, "{name}");
    }
}

#[test]
fn held_does_nothing_but_says_so() {
    let mut c = Client::mounted_on_the_primary();
    c.state.held = true;
    let cut = [dead(), up(1, Role::Follower)];
    let all: Vec<Action> = (0..9).flat_map(|_| c.see(&cut)).collect();
    assert_eq!(all, [Action::Alarm(Alarm::Held)]);
    c.state.held = false;
    assert_eq!(c.see(&cut), [Action::Promote { to: Backup, above: 1 }, Action::AllClear]);
}

#[test]
fn a_promotion_is_followed_by_the_switch_at_once() {
    let mut c = Client::mounted_on_the_primary();
    let cut = [dead(), up(1, Role::Follower)];
    let all: Vec<Action> = (0..3).flat_map(|_| c.see(&cut)).collect();
    assert_eq!(all, [Action::Promote { to: Backup, above: 1 }]);
    assert_eq!(c.promoted(Backup, 2), [Action::Switch { to: Backup, dead: true }]);
}

#[test]
fn nothing_is_mounted_before_both_were_asked() {
    // The primary answers first, and does not know that it was overtaken.
    let mut c = Client { state: State::default(), now: Duration::ZERO };
    assert_eq!(c.on_answers([Some(up(1, Role::Primary)), None]), []);
    assert_eq!(c.on_answers([None, Some(up(2, Role::Primary))]), [Action::Switch { to: Backup, dead: false }]);
}

#[test]
fn each_server_is_counted_by_its_own_answers() {
    let mut c = Client::mounted_on_the_primary();
    // A live server answers at once, a dead one only by its time-out.
    for _ in 0..2 {
        assert_eq!(c.on_answers([Some(dead()), None]), []);
        (0..9).for_each(|_| assert_eq!(c.on_answers([None, Some(up(1, Role::Follower))]), []));
    }
    assert_eq!(c.on_answers([Some(dead()), None]), [Action::Promote { to: Backup, above: 1 }]);
}

#[test]
fn a_move_that_failed_after_its_order_is_made_again_even_while_held() {
    let mut c = Client::mounted_on_the_primary();
    c.state.held = true;
    // The servers have changed roles by a command; the mount did not move.
    let handed = [up(1, Role::Follower), up(2, Role::Primary)];
    c.state.ordered = Some(Backup);
    let switch = [Action::Switch { to: Backup, dead: false }];
    assert_eq!(c.see(&handed), switch);
    c.done(Primary);
    assert_eq!(c.see(&handed), switch);
    c.done(Backup);
    assert_eq!(c.state.ordered, None);
    // Only what was ordered.
    assert_eq!(c.see(&[up(3, Role::Primary), up(2, Role::Follower)]), [Action::Alarm(Alarm::Held)]);
}

#[test]
fn an_old_primary_alone_is_no_place_to_go() {
    let mut c = Client::mounted_on_the_primary();
    c.see(&[up(1, Role::Primary), up(2, Role::Primary)]);
    c.done(Backup);
    // The backup dies; the old primary still says that it is one.
    let alone = [up(1, Role::Primary), dead()];
    let all: Vec<Action> = (0..3).flat_map(|_| c.see(&alone)).collect();
    assert_eq!(all, [Action::Promote { to: Primary, above: 2 }]);
}

#[test]
fn a_hand_over_that_broke_off_is_ended_when_the_other_side_is_dead() {
    let mut c = Client::mounted_on_the_primary();
    c.see(&[up(1, Role::Primary), up(2, Role::Primary)]);
    c.done(Backup);
    let neither = [dead(), up(2, Role::Follower)];
    let all: Vec<Action> = (0..12).flat_map(|_| c.see(&neither)).collect();
    assert_eq!(all, [Action::Promote { to: Backup, above: 2 }]);
    // While the other is there, it is left to the servers.
    let mut c = Client::mounted_on_the_primary();
    let neither = [up(1, Role::Follower), up(1, Role::Follower)];
    assert!((0..60).all(|_| c.see(&neither).is_empty()));
}

#[test]
fn a_client_that_starts_while_the_primary_is_dead() {
    let mut c = Client { state: State::default(), now: Duration::ZERO };
    let cut = [dead(), up(1, Role::Follower)];
    let all: Vec<Action> = (0..12).flat_map(|_| c.see(&cut)).collect();
    assert_eq!(all, [Action::Promote { to: Backup, above: 1 }]);
    // Without a mark there is nothing to raise.
    let mut c = Client { state: State::default(), now: Duration::ZERO };
    let bare = [dead(), Answer { nfs: true, report: Some(Report::default()) }];
    assert!((0..60).all(|_| c.see(&bare).is_empty()));
}

#[test]
fn flapping_moves_nothing() {
    let mut c = Client::mounted_on_the_primary();
    for round in 0..200 {
        let there = round % 2 == 0;
        let primary = if there { up(1, Role::Primary) } else { dead() };
        assert_eq!(c.see(&[primary, up(1, Role::Follower)]), [], "round {round}");
    }
    // And one that comes up now and then is not back.
    let mut c = Client::mounted_on_the_primary();
    for _ in 0..3 {
        c.see(&[dead(), dead()]);
    }
    assert!(!c.state.servers[0].alive);
    for round in 0..60 {
        let primary = if round % 3 < 2 { up(1, Role::Primary) } else { dead() };
        c.see(&[primary, dead()]);
        assert!(!c.state.servers[0].alive);
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    let mark = proptest::option::of(
        (1u64..5, any::<bool>())
            .prop_map(|(epoch, primary)| Mark::new(epoch, if primary { Role::Primary } else { Role::Follower }, "")),
    );
    let report = (mark, any::<bool>(), proptest::option::of(any::<bool>())).prop_map(|(mark, handing_over, peer_whole)| Report {
        mark,
        handing_over,
        peer_whole,
        ..Report::default()
    });
    (any::<bool>(), proptest::option::of(report)).prop_map(|(nfs, report)| Answer { nfs, report })
}

/// A server is queried in most rounds.
fn answers() -> impl Strategy<Value = Option<Answer>> {
    proptest::option::weighted(0.8, answer())
}

proptest! {
    /// Whatever the servers say: the mount goes only to the newest epoch's primary, nothing is
    /// begun twice, and epochs never go down.
    #[test]
    fn whatever_comes(rounds in proptest::collection::vec((answers(), answers(), any::<bool>(), any::<bool>()), 1..60)) {
        let mut state = State::default();
        let mut now = Duration::ZERO;
        for (p, b, ends, held) in rounds {
            now += Duration::from_secs(1);
            state.held = held;
            let busy = state.busy;
            let answers = [p, b];
            let (next, actions) = step(&state, &answers, &T, now);
            prop_assert!(next.epoch >= state.epoch);
            let begun: Vec<_> = actions.iter().filter(|a| matches!(a, Action::Promote { .. } | Action::Switch { .. })).collect();
            prop_assert!(begun.len() <= 1 && (begun.is_empty() || (busy.is_none() && !held)));
            for action in begun {
                match action {
                    Action::Switch { to, .. } => {
                        let health = &next.servers[to.index()];
                        prop_assert!(health.alive && health.primary_epoch() == Some(next.epoch), "{:?}", next);
                        prop_assert!(next.servers[to.other().index()].primary_epoch() != Some(next.epoch));
                    }
                    Action::Promote { to, above } => {
                        prop_assert!(*above == next.epoch && next.servers[to.index()].alive);
                        prop_assert!(!next.servers[to.other().index()].alive);
                    }
                    _ => {}
                }
            }
            state = next;
            if ends && let Some(goal) = state.busy {
                let (Goal::Promote { to } | Goal::Switch { to }) = goal;
                let on = if matches!(goal, Goal::Switch { .. }) { Some(to) } else { state.on };
                state = done(&state, on);
            }
        }
    }
}
