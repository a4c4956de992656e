//! The table that is printed: a row a figure, medians over the rounds, and what the answers were.

use std::collections::BTreeMap;

use crate::subject::Kind;

/// A figure's values, one a round, with what was answered.
type Values = Vec<(f64, String)>;

/// One row.
struct Row {
    /// Of targets.md.
    number: u8,
    unit: &'static str,
    goal: &'static str,
    values: BTreeMap<Kind, Values>,
}

/// All rows, in the order of their first values.
#[derive(Default)]
pub struct Table {
    order: Vec<String>,
    rows: BTreeMap<String, Row>,
}

/// What is measured: its number in the list of goals, its name, unit and goal. Less is better.
#[derive(Clone, Copy)]
pub struct Figure<'a> {
    pub number: u8,
    pub name: &'a str,
    pub unit: &'static str,
    pub goal: &'static str,
}

impl Table {
    /// A value of a round; `said`: what was answered, where that is not plain.
    pub fn add(&mut self, figure: Figure<'_>, kind: Kind, value: f64, said: &str) {
        let Figure { number, name, unit, goal } = figure;
        let key = format!("{number} {name}");
        if !self.rows.contains_key(&key) {
            self.order.push(key.clone());
        }
        let row = self.rows.entry(key).or_insert_with(|| Row { number, unit, goal, values: BTreeMap::new() });
        row.values.entry(kind).or_default().push((value, said.to_owned()));
        println!("  {:<9} {number:>2} {name:<64} {value:>12.2} {unit:<22} {said}", kind.name());
    }

    /// As Markdown.
    pub fn print(&self) {
        println!(
            "\n| row | figure | unit | causeway | consul | causeway / consul | goal |\n|---|---|---|---|---|---|---|"
        );
        for key in &self.order {
            let row = &self.rows[key];
            let name = key.split_once(' ').map_or("", |(_, name)| name);
            let of = |kind| row.values.get(&kind).and_then(median);
            let text = |found: &Option<(f64, String)>| match found {
                None => "–".to_owned(),
                Some((value, said)) if said.is_empty() => number(*value),
                Some((value, said)) => format!("{} ({said})", number(*value)),
            };
            let (ours, theirs) = (of(Kind::Causeway), of(Kind::Consul));
            let ratio = match (&ours, &theirs) {
                (Some((a, _)), Some((b, _))) if *a > 0.0 && *b > 0.0 => {
                    let ratio = a / b;
                    let shown = if ratio < 0.01 { "< 0.01".to_owned() } else { format!("{ratio:.2}") };
                    format!("{shown}x{}", if a > b { " (more)" } else { "" })
                }
                _ => "–".to_owned(),
            };
            println!(
                "| {} | {name} | {} | {} | {} | {ratio} | {} |",
                if row.number == 0 { "–".to_owned() } else { row.number.to_string() },
                row.unit,
                text(&ours),
                text(&theirs),
                row.goal
            );
        }
    }
}

fn number(v: f64) -> String {
    match v.abs() {
        a if a >= 1000.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// The middle value, with what was said in its round.
fn median(values: &Values) -> Option<(f64, String)> {
    let mut sorted = values.clone();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    sorted.get(sorted.len() / 2).cloned()
}
