//! Whether a server is up, judged by its checks one after another: `rise` and `fall` of them in a
//! row, as HAProxy and keepalived count. Pure: what a check found comes in, a change of mind goes
//! out.

/// What is thought of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    down: bool,
    /// Checks in a row that contradict `down`.
    against: u32,
    /// Nothing is known yet: `down` is the configuration's guess, and the first check decides.
    guessed: bool,
}

impl Standing {
    /// A guess, which the first check confirms or not.
    pub fn guess(down: bool) -> Self {
        Self {
            down,
            against: 0,
            guessed: true,
        }
    }

    /// What an earlier process knew.
    pub fn known(down: bool) -> Self {
        Self {
            guessed: false,
            ..Self::guess(down)
        }
    }

    /// Whether the server is down.
    pub fn is_down(self) -> bool {
        self.down
    }

    /// Takes what a check found; returns whether the mind changed.
    pub fn take(&mut self, ok: bool, rise: u32, fall: u32) -> bool {
        let guessed = core::mem::take(&mut self.guessed);
        if ok != self.down {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let enough = if self.down { rise } else { fall };
        if !guessed && self.against < enough {
            return false;
        }
        self.down = !self.down;
        self.against = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `+` (a check succeeded) and `-`; returns `u` and `d` for each check.
    fn run(mut standing: Standing, rise: u32, fall: u32, found: &str) -> String {
        let judge = |c| {
            let before = standing.is_down();
            let changed = standing.take(c == '+', rise, fall);
            assert_eq!(changed, before != standing.is_down());
            if standing.is_down() { 'd' } else { 'u' }
        };
        found.chars().map(judge).collect()
    }

    #[test]
    fn it_takes_so_many_in_a_row() {
        let up = Standing::known(false);
        assert_eq!(run(up, 2, 3, "--+--+---+-++"), "uuuuuuuuddddu");
        assert_eq!(run(up, 1, 1, "-+-+"), "dudu");
        assert_eq!(run(Standing::known(true), 2, 3, "+-++"), "dddu");
    }

    #[test]
    fn the_first_check_decides_where_nothing_was_known() {
        assert_eq!(run(Standing::guess(false), 2, 3, "-++"), "ddu");
        assert_eq!(run(Standing::guess(true), 2, 3, "+---"), "uuud");
        // Confirmed, it is known.
        assert_eq!(run(Standing::guess(false), 2, 3, "+---"), "uuud");
        assert_eq!(run(Standing::guess(true), 2, 3, "-++"), "ddu");
    }
}
