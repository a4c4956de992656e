//! `agent/metrics`: Prometheus' text as it is, or as Consul's JSON.

use std::collections::BTreeMap;

use http::{StatusCode, header};
use serde::Serialize;

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::reply::Reply;

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metrics {
    timestamp: String,
    gauges: Vec<Gauge>,
    points: Vec<()>,
    counters: Vec<Sampled>,
    samples: Vec<Sampled>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: String,
    value: f64,
    labels: BTreeMap<String, String>,
}

/// A counter or a sample. Totals since the start; Consul's are of its last interval.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sampled {
    name: String,
    count: u64,
    sum: f64,
    mean: f64,
    labels: BTreeMap<String, String>,
}

/// `name{a="b"} value`.
fn line(text: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    let (head, value) = text.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = head.split_once('{') else { return Some((head, BTreeMap::new(), value)) };
    let labels = labels
        .strip_suffix('}')?
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(k, v)| (k.to_owned(), v.trim_end_matches('"').to_owned()))
        .collect();
    Some((name, labels, value))
}

/// Reads Prometheus' text format, as our own exporter writes it.
fn parse(text: &str) -> Metrics {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut metrics = Metrics::default();
    let mut samples: BTreeMap<(String, BTreeMap<String, String>), Sampled> = BTreeMap::new();
    for row in text.lines() {
        if let Some(kind) = row.strip_prefix("# TYPE ") {
            kinds.extend(kind.split_once(' '));
            continue;
        }
        let Some((name, mut labels, value)) = line(row).filter(|_| !row.starts_with('#')) else { continue };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates; counts are whole")]
        let count = value as u64;
        match kinds.get(name).copied() {
            Some("gauge") => metrics.gauges.push(Gauge { name: name.to_owned(), value, labels }),
            Some("counter") => {
                metrics.counters.push(Sampled { name: name.to_owned(), count, sum: value, mean: 1.0, labels });
            }
            _ => {
                let (base, part) = name.rsplit_once('_').unwrap_or((name, ""));
                labels.remove("quantile");
                let sample = |samples: &mut BTreeMap<_, _>, set: &dyn Fn(&mut Sampled)| {
                    let entry = samples.entry((base.to_owned(), labels.clone())).or_insert_with(|| Sampled {
                        name: base.to_owned(),
                        labels: labels.clone(),
                        ..Sampled::default()
                    });
                    set(entry);
                };
                match part {
                    "sum" => sample(&mut samples, &|s| s.sum = value),
                    "count" => sample(&mut samples, &|s| s.count = count),
                    _ => {}
                }
            }
        }
    }
    metrics.samples = samples
        .into_values()
        .map(|mut sample| {
            #[allow(clippy::cast_precision_loss, reason = "a mean")]
            if sample.count > 0 {
                sample.mean = sample.sum / sample.count as f64;
            }
            sample
        })
        .collect();
    metrics
}

pub(crate) fn show(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let text = call.ctx.metrics.as_ref().map(|render| render());
    if call.params.get("format") == "prometheus" {
        return match text.filter(|_| call.ctx.prometheus) {
            Some(text) => {
                Ok(Reply::text(text).header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
            }
            None => Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Prometheus is not enabled since its retention time is not positive",
            )),
        };
    }
    call.json(&parse(&text.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_text_as_consuls_json() {
        let metrics = parse(
            "# HELP a x\n# TYPE a gauge\na 1.5\n\n# TYPE b counter\nb{m=\"GET\",p=\"x,y\"} 3\n# TYPE c summary\n\
             c{quantile=\"0.5\"} 2\nc_sum 10\nc_count 4\n",
        );
        assert_eq!((metrics.gauges[0].name.as_str(), metrics.gauges[0].value), ("a", 1.5));
        assert_eq!((metrics.counters[0].count, metrics.counters[0].labels["p"].as_str()), (3, "x,y"));
        assert_eq!((metrics.samples[0].name.as_str(), metrics.samples[0].mean), ("c", 2.5));
    }
}
