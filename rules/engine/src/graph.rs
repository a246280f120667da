//! A picture of a rule set: rules, fact types, and which rule reads and writes which.
//!
//! Layers run from top to bottom: facts that no rule makes stand first, then what reads them, and so on; an edge back up
//! runs beside the layers. As mermaid text or as SVG, both made here and always the same for the same rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::RuleSet;
use crate::compile::uses::Written;
use crate::syntax::ClauseKind;

/// The fields that an edge names; the rest is counted.
const FIELDS_SHOWN: usize = 3;
/// Sizes in SVG units, which are pixels at 100 %.
const LETTER: usize = 7;
const BOX_HEIGHT: usize = 34;
const LAYER_HEIGHT: usize = 120;
const GAP: usize = 36;
const MARGIN: usize = 30;
/// Rounds in which each layer is ordered by its neighbors: more hardly change a picture.
const SWEEPS: usize = 6;

/// Rules and fact types, and the edges between them.
#[derive(Debug, Clone)]
pub struct Graph {
    workflow: String,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Debug, Clone)]
struct Node {
    name: String,
    is_rule: bool,
}

#[derive(Debug, Clone)]
struct Edge {
    from: usize,
    to: usize,
    label: String,
    /// Whether it says that something must be missing.
    absent: bool,
}

impl RuleSet {
    /// Rules and fact types, and which rule reads and writes which.
    #[must_use]
    pub fn graph(&self) -> Graph {
        let types = self.types.iter().map(|known| Node {
            name: known.name.to_string(),
            is_rule: false,
        });
        let rules = self.rules.iter().map(|rule| Node {
            name: rule.name.to_string(),
            is_rule: true,
        });
        let nodes: Vec<Node> = types.chain(rules).collect();
        let mut edges = Vec::new();
        for (at, uses) in self.uses.iter().enumerate() {
            let rule = self.types.len() + at;
            let mut reads: BTreeMap<(usize, bool), u64> = BTreeMap::new();
            for clause in &uses.clauses {
                if let Some(kind) = clause.fact_type {
                    *reads.entry((kind, clause.kind == ClauseKind::No)).or_default() |= clause.reads;
                }
            }
            for ((kind, absent), slots) in reads {
                let fields = self.fields(kind, slots);
                let label = if absent {
                    format!("no {fields}").trim_end().to_owned()
                } else {
                    fields
                };
                edges.push(Edge {
                    from: kind,
                    to: rule,
                    label,
                    absent,
                });
            }
            let mut writes: BTreeMap<usize, (u64, bool, bool)> = BTreeMap::new();
            for write in &uses.writes {
                let Some(kind) = write.change.kind() else { continue };
                let (slots, inserts, retracts) = writes.entry(kind).or_default();
                match &write.change {
                    Written::Insert { .. } => *inserts = true,
                    Written::Retract { .. } => *retracts = true,
                    Written::Update { slot, .. } => *slots |= 1 << slot,
                    Written::Anything { .. } => *slots |= u64::MAX,
                    Written::Own(_) => {}
                }
            }
            for (kind, (slots, inserts, retracts)) in writes {
                let words = [(inserts, "insert"), (retracts, "retract")];
                let mut label: Vec<String> = words
                    .iter()
                    .filter(|(does, _)| *does)
                    .map(|(_, word)| (*word).to_owned())
                    .collect();
                label.extend(Some(self.fields(kind, slots)).filter(|fields| !fields.is_empty()));
                edges.push(Edge {
                    from: rule,
                    to: kind,
                    label: label.join(", "),
                    absent: false,
                });
            }
        }
        Graph {
            workflow: self.workflow.clone(),
            nodes,
            edges,
        }
    }

    fn fields(&self, kind: usize, slots: u64) -> String {
        let fields = self.types[kind].fields.iter().enumerate();
        let names: Vec<&str> = fields
            .filter(|(slot, _)| slots >> slot & 1 == 1)
            .map(|(_, field)| &*field.name)
            .collect();
        let mut text = names
            .iter()
            .take(FIELDS_SHOWN)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        if names.len() > FIELDS_SHOWN {
            write!(text, " +{}", names.len() - FIELDS_SHOWN).expect("a string takes everything");
        }
        text
    }
}

impl Graph {
    /// The graph as mermaid text.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut text = format!("---\ntitle: {}\n---\nflowchart TD\n", self.workflow);
        let quoted = |text: &str| text.replace('"', "#quot;");
        for (at, node) in self.nodes.iter().enumerate() {
            let name = quoted(&node.name);
            let line = if node.is_rule {
                format!("n{at}[\"{name}\"]")
            } else {
                format!("n{at}([\"{name}\"])")
            };
            writeln!(text, "    {line}").expect("a string takes everything");
        }
        for edge in &self.edges {
            let arrow = if edge.absent { "-.->" } else { "-->" };
            let label = if edge.label.is_empty() {
                String::new()
            } else {
                format!("|\"{}\"|", quoted(&edge.label))
            };
            writeln!(text, "    n{} {arrow}{label} n{}", edge.from, edge.to)
                .expect("a string takes everything");
        }
        text
    }

    /// The graph as an SVG picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let layers = self.layers();
        let placed = self.place(&layers);
        let width = placed.iter().map(|node| node.x + node.width).max().unwrap_or(0);
        let beside = self
            .edges
            .iter()
            .filter(|edge| placed[edge.from].layer >= placed[edge.to].layer)
            .count();
        let height = layers.len() * LAYER_HEIGHT
            - (LAYER_HEIGHT - BOX_HEIGHT).min(layers.len() * LAYER_HEIGHT)
            + 2 * MARGIN;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" viewBox=\"0 0 {0} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{1}</title>\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#667\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
            width + 2 * MARGIN + beside * 14 + if beside > 0 { 90 } else { 0 },
            escaped(&self.workflow),
        );
        let mut lane = width + MARGIN;
        for (at, edge) in self.edges.iter().enumerate() {
            text += &self.path(at, edge, &placed, &mut lane);
        }
        for (node, place) in self.nodes.iter().zip(&placed) {
            let (fill, stroke, round) = if node.is_rule {
                ("#eef4ff", "#4a6fb5", 5)
            } else {
                ("#fff7e6", "#b5833a", 17)
            };
            writeln!(
                text,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{BOX_HEIGHT}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"{stroke}\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                place.x,
                place.y,
                place.width,
                place.x + place.width / 2,
                place.y + 22,
                escaped(&node.name),
            )
            .expect("a string takes everything");
        }
        text + "</svg>\n"
    }

    /// The nodes of each layer. A node stands below all that leads to it; where that goes in a circle, the earliest node
    /// that something placed leads to comes first.
    fn layers(&self) -> Vec<Vec<usize>> {
        let mut layer: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let leads = |to: usize| {
            self.edges
                .iter()
                .filter(move |edge| edge.to == to && edge.from != to)
                .map(|edge| edge.from)
        };
        for _ in 0..self.nodes.len() {
            let open = |at: &usize| layer[*at].is_none();
            let waits = |at: usize| leads(at).filter(|from| layer[*from].is_none()).count();
            let reached = |at: usize| leads(at).any(|from| layer[from].is_some());
            // Free ones first; in a circle one that is reached already, facts before rules, the least bound.
            let Some(next) = (0..self.nodes.len())
                .filter(open)
                .min_by_key(|at| (waits(*at) > 0, !reached(*at), waits(*at), *at))
            else {
                break;
            };
            layer[next] = Some(
                leads(next)
                    .filter_map(|from| layer[from])
                    .max()
                    .map_or(0, |above| above + 1),
            );
        }
        let mut layers: Vec<Vec<usize>> = Vec::new();
        for (node, layer) in layer.into_iter().enumerate() {
            let layer = layer.unwrap_or(0);
            if layers.len() <= layer {
                layers.resize(layer + 1, Vec::new());
            }
            layers[layer].push(node);
        }
        self.untangle(&mut layers);
        layers
    }

    /// Orders each layer by the mean place of its neighbors, down and up in turn.
    fn untangle(&self, layers: &mut [Vec<usize>]) {
        for sweep in 0..SWEEPS {
            let mut place: Vec<usize> = vec![0; self.nodes.len()];
            let count = layers.len();
            for step in 0..count {
                for layer in layers.iter() {
                    // In thousandths of the layer's width, so that short and long layers compare.
                    for (at, node) in layer.iter().enumerate() {
                        place[*node] = (at * 2 + 1) * 1_000 / (layer.len() * 2);
                    }
                }
                let at = if sweep % 2 == 0 { step } else { count - 1 - step };
                let mean = |node: usize| {
                    let neighbors: Vec<usize> = (self.edges.iter())
                        .filter_map(|edge| match (edge.from == node, edge.to == node) {
                            (true, false) => Some(place[edge.to]),
                            (false, true) => Some(place[edge.from]),
                            _ => None,
                        })
                        .collect();
                    neighbors
                        .iter()
                        .sum::<usize>()
                        .checked_div(neighbors.len())
                        .unwrap_or(place[node])
                };
                layers[at].sort_by_key(|node| (mean(*node), *node));
            }
        }
    }

    fn place(&self, layers: &[Vec<usize>]) -> Vec<Placed> {
        let wide = |node: usize| self.nodes[node].name.chars().count() * LETTER + 28;
        let total = |layer: &Vec<usize>| {
            layer
                .iter()
                .map(|node| wide(*node) + GAP)
                .sum::<usize>()
                .saturating_sub(GAP)
        };
        let widest = layers.iter().map(total).max().unwrap_or(0);
        let mut placed = vec![Placed::default(); self.nodes.len()];
        for (at, layer) in layers.iter().enumerate() {
            let mut x = MARGIN + (widest - total(layer)) / 2;
            for &node in layer {
                let width = wide(node);
                placed[node] = Placed {
                    x,
                    y: MARGIN + at * LAYER_HEIGHT,
                    width,
                    layer: at,
                };
                x += width + GAP;
            }
        }
        placed
    }

    /// An edge down is a curve; an edge up or across runs in a lane of its own beside the layers.
    fn path(&self, at: usize, edge: &Edge, placed: &[Placed], lane: &mut usize) -> String {
        let (from, to) = (&placed[edge.from], &placed[edge.to]);
        // Edges leave and meet a box side by side, in their order.
        let port = |node: usize, place: &Placed| {
            let touching: Vec<usize> = (self.edges.iter().enumerate())
                .filter(|(_, other)| other.from == node || other.to == node)
                .map(|(at, _)| at)
                .collect();
            let own = touching.iter().position(|touching| *touching == at).unwrap_or(0);
            place.x + place.width * (own + 1) / (touching.len() + 1)
        };
        let (x1, x2) = (port(edge.from, from), port(edge.to, to));
        let (path, x, y) = if from.layer < to.layer {
            let (y1, y2) = (from.y + BOX_HEIGHT, to.y);
            let middle = usize::midpoint(y1, y2);
            // Labels of neighbors stand at different heights.
            let y = y1 + (y2 - y1) * (2 + at % 3) / 6;
            (
                format!("M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}"),
                usize::midpoint(x1, x2),
                y,
            )
        } else {
            *lane += 14;
            let (y1, y2) = (from.y + BOX_HEIGHT, to.y);
            let (low, high, side) = (y1 + 16, y2.saturating_sub(16), *lane);
            let path = format!(
                "M{x1} {y1}V{low}Q{x1} {0} {1} {0}H{2}Q{side} {0} {side} {low}V{high}Q{side} {3} {2} {3}H{4}Q{x2} {3} {x2} {high}V{y2}",
                low + 8,
                x1 + 8,
                side - 8,
                high.saturating_sub(8),
                x2 + 8,
            );
            (path, side, usize::midpoint(low, high))
        };
        let dash = if edge.absent {
            " stroke-dasharray=\"5 4\""
        } else {
            ""
        };
        let mut text =
            format!("<path d=\"{path}\" fill=\"none\" stroke=\"#667\"{dash} marker-end=\"url(#tip)\"/>");
        if !edge.label.is_empty() {
            write!(
                text,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"10\" fill=\"#445\" stroke=\"#fff\" \
                 stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
                escaped(&edge.label)
            )
            .expect("a string takes everything");
        }
        text + "\n"
    }
}

#[derive(Debug, Clone, Default)]
struct Placed {
    x: usize,
    y: usize,
    width: usize,
    layer: usize,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
