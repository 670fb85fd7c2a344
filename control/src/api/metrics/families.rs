//! Families of samples, in the words of the `prometheus` crate.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use shunt_service::times::{self, Counted};

/// Families by name.
#[derive(Default)]
pub(super) struct Families(BTreeMap<String, MetricFamily>);

impl Families {
    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.seconds(name, help, labels, value as f64);
    }

    /// A gauge with a fraction.
    pub(super) fn seconds(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.push(name, help, MetricType::GAUGE, metric);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.push(name, help, MetricType::COUNTER, metric);
    }

    /// A histogram.
    pub(super) fn times(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        counted: &Counted,
    ) {
        let mut buckets = Vec::new();
        let mut below = 0;
        for (n, count) in counted.buckets.iter().enumerate() {
            below += count;
            // Every second one tells enough; the encoder adds the one without a bound.
            if let Some(ns) = times::bound(n).filter(|_| n % 2 == 1) {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(ns as f64 / 1e9);
                bucket.set_cumulative_count(below);
                buckets.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_sample_sum(counted.sum as f64 / 1e9);
        histogram.set_sample_count(below);
        histogram.set_bucket(buckets);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, metric);
    }

    /// All of them, by name.
    pub(super) fn into_vec(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        if let Some(family) = self.0.get_mut(name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.mut_metric().push(metric);
        self.0.insert(name.to_owned(), family);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::default();
    metric.set_label(pairs.collect());
    metric
}
