//! The load table, under every interleaving where workers meet at a limit.

#[cfg(all(test, loom))]
mod loom_tests {
    use crate::load::*;

    const S: ServerSlot = ServerSlot(0);

    /// Two workers at a server with a limit, which already has a session of the second's: the limit
    /// holds, and a server without sessions is not taken for overloaded: nobody would ever pick it again.
    fn at_the_limit(upper: u32) {
        loom::model(move || {
            let load = loom::sync::Arc::new(Load::new(2, 1));
            assert!(load.open(WorkerId(1), S, upper));
            let other = {
                let load = load.clone();
                loom::thread::spawn(move || load.close(WorkerId(1), S, false, upper, 0))
            };
            let opened = load.open(WorkerId(0), S, upper);
            other.join().unwrap();
            assert_eq!(load.sessions(S), u32::from(opened));
            if opened {
                load.close(WorkerId(0), S, false, upper, 0);
            }
            assert_eq!(load.sessions(S), 0);
            assert!(
                !load.overloaded(S),
                "nobody has a session, and all pass it over"
            );
        });
    }

    #[test]
    fn a_limit_of_one() {
        at_the_limit(1);
    }

    #[test]
    fn a_limit_of_two() {
        at_the_limit(2);
    }

    /// Two refused at once, while the only session ends.
    #[test]
    fn two_are_refused() {
        // Three threads: few switches are enough, all of them take a minute.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let load = loom::sync::Arc::new(Load::new(3, 1));
            assert!(load.open(WorkerId(2), S, 1));
            let others = [0, 1].map(|n| {
                let load = load.clone();
                loom::thread::spawn(move || {
                    if load.open(WorkerId(n), S, 1) {
                        load.close(WorkerId(n), S, false, 1, 0);
                    }
                })
            });
            load.close(WorkerId(2), S, false, 1, 0);
            for other in others {
                other.join().unwrap();
            }
            assert_eq!(load.sessions(S), 0);
            assert!(
                !load.overloaded(S),
                "nobody has a session, and all pass it over"
            );
        });
    }
}

#[cfg(all(test, not(loom)))]
mod alone {
    use crate::load::*;

    const W: WorkerId = WorkerId(0);
    const S: ServerSlot = ServerSlot(0);

    #[test]
    fn limit_holds_and_overload_ends_below_three_quarters() {
        let load = Load::new(1, 1);
        for _ in 0..4 {
            assert!(load.open(W, S, 4));
        }
        assert!(load.overloaded(S));
        assert!(!load.open(W, S, 4));
        assert_eq!(load.sessions(S), 4);
        load.close(W, S, false, 4, 0);
        assert!(load.overloaded(S), "3 of 4 is not below three quarters");
        load.close(W, S, false, 4, 0);
        assert!(!load.overloaded(S));
        assert_eq!(load.totals(S).refused, 1);
    }

    #[test]
    fn lower_threshold_decides_where_it_is_set() {
        let load = Load::new(1, 1);
        for _ in 0..4 {
            assert!(load.open(W, S, 4));
        }
        for _ in 0..2 {
            load.close(W, S, false, 4, 2);
        }
        assert!(load.overloaded(S), "2 is not below 2");
        load.close(W, S, false, 4, 2);
        assert!(!load.overloaded(S));
    }

    #[test]
    fn two_workers_never_exceed_the_limit() {
        let load = Load::new(2, 1);
        std::thread::scope(|s| {
            for w in 0..2 {
                let load = &load;
                s.spawn(move || {
                    for _ in 0..10_000 {
                        if load.open(WorkerId(w), S, 3) {
                            assert!(load.sessions(S) <= 4, "at most one refused attempt on top");
                            load.close(WorkerId(w), S, false, 3, 0);
                        }
                    }
                });
            }
        });
        assert_eq!(load.sessions(S), 0);
        assert_eq!(load.totals(S).inactive, 0);
    }
}
