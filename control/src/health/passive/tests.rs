use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn passive() -> Passive {
    let seconds = Duration::from_secs;
    Passive {
        failures: 50,
        resets: None,
        sample: 10,
        window: seconds(10),
        answer: seconds(3),
        min: seconds(10),
        max: seconds(80),
        max_ejected: 50,
    }
}

/// Servers of a service whose counts grow.
struct Service {
    passive: Passive,
    judge: Judge,
    servers: Vec<Seen>,
    now: Ticks,
}

impl Service {
    fn new(servers: u32, one_way: bool) -> Self {
        let seen = |id| Seen {
            id: ServerId(id),
            // They may wrap.
            outcomes: Outcomes {
                answered: u32::MAX,
                refused: u32::MAX - 1,
                silent: u32::MAX - 2,
                reset: 0,
            },
            one_way,
            serves: true,
        };
        Self {
            passive: passive(),
            judge: Judge::default(),
            servers: (0..servers).map(seen).collect(),
            now: Ticks(7 * SECOND),
        }
    }

    /// A second with so many good and bad handshakes of each server; those that are ejected get none.
    fn second(&mut self, counts: &[(u32, u32)]) -> bool {
        self.now = Ticks(self.now.0 + SECOND);
        for (seen, (good, bad)) in self.servers.iter_mut().zip(counts) {
            if self.judge.of(seen.id).is_none() {
                let o = &mut seen.outcomes;
                o.answered = o.answered.wrapping_add(*good);
                o.refused = o.refused.wrapping_add(bad / 2);
                o.silent = o.silent.wrapping_add(bad - bad / 2);
            }
        }
        self.judge.look(&self.passive, &self.servers, self.now)
    }

    fn ejected(&self) -> Vec<u32> {
        let mut ejected: Vec<u32> = self.judge.ejected().map(|id| id.0).collect();
        ejected.sort_unstable();
        ejected
    }

    /// Seconds of such until a server is ejected, and until it is back.
    fn away(&mut self, counts: &[(u32, u32)]) -> (u32, u32) {
        let mut seconds = [0; 2];
        for (n, ejected) in [(0, false), (1, true)] {
            while self.ejected().is_empty() != ejected {
                assert!(seconds[n] < 1000, "never");
                self.second(counts);
                seconds[n] += 1;
            }
        }
        (seconds[0], seconds[1])
    }
}

#[test]
fn half_of_ten_is_enough_and_less_is_not() {
    for (good, bad, ejected) in [
        (5, 5, vec![0]),
        (6, 5, vec![]),
        (0, 9, vec![]),
        (0, 10, vec![0]),
        (1000, 0, vec![]),
    ] {
        let mut s = Service::new(3, false);
        s.second(&[]);
        s.second(&[(good, bad), (5, 0), (5, 0)]);
        assert_eq!(s.ejected(), ejected, "{good} good, {bad} bad");
        if let Some(ejection) = s.judge.of(ServerId(0)) {
            let o = ejection.why.outcomes;
            assert_eq!((o.answered, o.refused + o.silent), (good, bad));
        }
    }
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut s = Service::new(2, false);
    s.second(&[]);
    // Nine in ten seconds, again and again.
    for n in 0..100 {
        s.second(&[(0, u32::from(n % 10 != 0)), (9, 0)]);
        assert_eq!(s.ejected(), [0; 0], "second {n}");
    }
    s.second(&[(0, 5), (9, 0)]);
    assert_eq!(s.ejected(), [0]);
}

#[test]
fn who_fails_again_is_away_twice_as_long_and_who_does_well_is_forgiven() {
    let mut s = Service::new(2, false);
    s.second(&[]);
    let (fails, well) = ([(0, 10), (10, 0)], [(10, 0), (10, 0)]);
    let away: Vec<u32> = (0..5).map(|_| s.away(&fails).1).collect();
    assert_eq!(away, [10, 20, 40, 80, 80]);
    // Two windows take back two doublings.
    for _ in 0..21 {
        s.second(&well);
    }
    assert_eq!(s.ejected(), [0; 0]);
    assert_eq!(s.away(&fails).1, 20);
    for _ in 0..200 {
        s.second(&well);
    }
    assert_eq!(s.away(&fails).1, 10);
}

#[test]
fn a_server_nobody_asks_is_not_forgiven() {
    let mut s = Service::new(2, false);
    s.second(&[]);
    assert_eq!(s.away(&[(0, 10), (10, 0)]).1, 10);
    for _ in 0..100 {
        s.second(&[(0, 0), (10, 0)]);
    }
    assert_eq!(s.away(&[(0, 10), (10, 0)]).1, 20);
}

#[test]
fn resets_count_where_they_are_asked_for() {
    for resets in [None, Some(50)] {
        let mut s = Service::new(2, false);
        s.passive.resets = resets;
        s.second(&[]);
        s.servers[1].outcomes.reset = 10;
        s.second(&[(20, 0), (20, 0)]);
        assert_eq!(s.ejected().is_empty(), resets.is_none());
        assert!(s.judge.of(ServerId(1)).is_none_or(|e| e.why.resets));
    }
}

#[test]
fn where_replies_pass_by_a_flood_at_all_ejects_nobody() {
    for servers in [1, 2, 3, 10] {
        let mut s = Service::new(servers, true);
        s.second(&[]);
        for _ in 0..100 {
            s.second(&vec![(3, 1000); servers as usize]);
            assert_eq!(s.ejected(), [0; 0]);
        }
        // One that answers nobody while others answer some.
        let mut counts = vec![(600, 400); servers as usize];
        counts[0] = (0, 1000);
        for _ in 0..11 {
            s.second(&counts);
        }
        assert_eq!(s.ejected().len(), usize::from(servers > 1), "{servers}");
    }
}

#[test]
fn others_that_nobody_asks_prove_nothing() {
    let mut s = Service::new(2, true);
    s.second(&[]);
    s.second(&[(0, 1000), (9, 0)]);
    assert_eq!(s.ejected(), [0; 0]);
    s.second(&[(0, 0), (1, 0)]);
    assert_eq!(s.ejected(), [0]);
}

#[test]
fn the_share_and_the_last() {
    for (servers, share, most) in [
        (1, 100, 0),
        (2, 49, 0),
        (2, 50, 1),
        (3, 50, 1),
        (3, 100, 2),
        (10, 30, 3),
    ] {
        let mut s = Service::new(servers, false);
        s.passive.max_ejected = share;
        s.second(&[]);
        s.second(&vec![(0, 100); servers as usize]);
        assert_eq!(s.ejected().len(), most, "{servers} servers, {share} %");
    }
    // The worst goes first, and those that do not serve are no help.
    let mut s = Service::new(4, false);
    s.servers[3].serves = false;
    s.passive.max_ejected = 100;
    s.second(&[]);
    s.second(&[(50, 50), (10, 90), (50, 50), (0, 100)]);
    assert_eq!(s.ejected(), [0, 1]);
}

#[test]
fn who_is_not_watched_any_more_is_forgotten() {
    let mut s = Service::new(2, false);
    s.second(&[]);
    s.second(&[(0, 10), (10, 0)]);
    assert!(
        !s.judge.retain(&[ServerId(0)].into()),
        "it is still watched"
    );
    assert!(s.judge.retain(&[ServerId(1)].into()));
    assert_eq!(s.ejected(), [0; 0]);
}

proptest! {
    /// Whatever happens: no more than the share, never the last, nobody longer than the longest time, and
    /// nobody whose handshakes in the window, counted one by one, were not bad.
    #[test]
    fn keeps_to_its_limits(
        servers in 1_u32..6,
        one_way: bool,
        share in 0_u32..=100,
        steps in prop::collection::vec(prop::collection::vec((0_u32..8, 0_u32..8), 5), 1..120),
    ) {
        let mut s = Service::new(servers, one_way);
        s.passive.max_ejected = share;
        s.second(&[]);
        let mut model: Vec<Vec<(u32, u32)>> = vec![Vec::new(); servers as usize];
        for counts in &steps {
            let before = s.ejected();
            for (n, past) in model.iter_mut().enumerate() {
                match before.contains(&(n as u32)) {
                    true => past.clear(),
                    false => past.push(counts[n]),
                }
            }
            s.second(counts);
            let ejected = s.ejected();
            prop_assert!(ejected.len() as u32 * 100 <= share * servers);
            prop_assert!((ejected.len() as u32) < servers);
            for id in &ejected {
                let ejection = s.judge.of(ServerId(*id)).unwrap();
                prop_assert!(ejection.until > s.now);
                prop_assert!(ejection.until.since(ejection.since) <= 80 * SECOND);
                if !before.contains(id) {
                    let past = &model[*id as usize];
                    let recent = &past[past.len().saturating_sub(10)..];
                    let (good, bad) = recent.iter().fold((0, 0), |(g, b), (x, y)| (g + x, b + y));
                    prop_assert!(good + bad >= 10 && bad >= good, "{good} good, {bad} bad");
                }
            }
        }
    }
}
