//! Plain tables for people, and how they write numbers and times.

/// Between two columns.
const GAP: usize = 2;

/// A table without lines. `columns` are headings; one that begins with `>` is set right. A row has a cell for each. Written here because
/// a list of a hundred thousand servers takes seconds otherwise.
pub(crate) fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let headings = columns.iter().map(|c| c.trim_start_matches('>').to_owned());
    // All cells in one text: a million small ones that live at once take longer than all else.
    let (mut cells, mut ends) = (String::new(), Vec::new());
    let mut widths = vec![0; columns.len()];
    for row in core::iter::once(headings.collect::<Vec<_>>()).chain(rows) {
        debug_assert_eq!(row.len(), columns.len(), "{row:?}");
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
            cells.push_str(&cell);
            ends.push(cells.len());
        }
    }
    let mut text = String::with_capacity(ends.len() / columns.len() * widths.iter().sum::<usize>());
    let mut begin = 0;
    for line in ends.chunks(columns.len()) {
        let start = text.len();
        for ((end, width), heading) in line.iter().zip(&widths).zip(columns) {
            let cell = &cells[begin..*end];
            begin = *end;
            let blanks = width - cell.chars().count();
            let (left, right) = match heading.starts_with('>') {
                true => (blanks, GAP),
                false => (0, blanks + GAP),
            };
            text.extend(core::iter::repeat_n(' ', left));
            text.push_str(cell);
            text.extend(core::iter::repeat_n(' ', right));
        }
        let end = text.trim_end().len().max(start);
        text.truncate(end);
        text.push('\n');
    }
    text
}

/// A count in at most six characters: exact below 100 000, else three figures and a power of 1000.
pub(crate) fn short(n: u64) -> String {
    if n < 100_000 {
        return n.to_string();
    }
    let mut value = n as f64;
    for unit in ["k", "M", "G", "T", "P", "E"] {
        value /= 1000.0;
        if value < 999.5 {
            let digits = if value < 9.995 {
                2
            } else if value < 99.95 {
                1
            } else {
                0
            };
            return format!("{value:.digits$}{unit}");
        }
    }
    n.to_string()
}

/// A time in its two largest units: `14m58s`.
pub(crate) fn time(ms: u64) -> String {
    if ms < 10_000 {
        return format!("{}.{}s", ms / 1000, ms % 1000 / 100);
    }
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_short() {
        let shown = [
            0,
            99_999,
            100_000,
            999_499,
            999_500,
            1_234_567,
            99_960_000,
            u64::MAX,
        ];
        let expected = [
            "0", "99999", "100k", "999k", "1.00M", "1.23M", "100M", "18.4E",
        ];
        assert_eq!(shown.map(short), expected);
    }

    #[test]
    fn times_have_two_units() {
        let shown = [0, 1250, 59_000, 898_000, 3_600_000, 90_000_000];
        assert_eq!(
            shown.map(time),
            ["0.0s", "1.2s", "59s", "14m58s", "1h00m", "1d01h"]
        );
    }
}
