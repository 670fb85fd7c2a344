//! Figures as lines of JSON, for `scripts/bench`, and in words for whoever looks on.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is called in `bench/budgets.tsv` and in the results.
    pub id: String,
    /// In words.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it was compared with in the same run, and other figures of the same measurement.
    pub reference: String,
}

/// Where figures go.
#[derive(Debug)]
pub struct Rows {
    file: Option<PathBuf>,
}

impl Rows {
    /// Appends to a file, or only prints.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// A figure.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&self, row: &Row) -> Result<(), Box<dyn Error>> {
        println!(
            "{:<18} {:>12} {:<16} {}: {}",
            row.id,
            short(row.value),
            row.unit,
            row.name,
            row.reference
        );
        if let Some(path) = &self.file {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            writeln!(file, "{}", serde_json::to_string(row)?)?;
        }
        Ok(())
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
