//! A YAML document as a tree whose nodes know their place in the text. Scalars are kept as they are
//! written: what a plain one means is left to who reads the file.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle, Tag};

use super::edit::Problem;
use super::lines;

/// How many nodes a document may have once its aliases are followed: far more than client-go takes,
/// and few enough to be walked.
const MOST_NODES: usize = 1_000_000;

/// A node, or an alias with what it stands for.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub content: Rc<Content>,
    /// Full form of its tag, as `tag:yaml.org,2002:binary`.
    pub tag: Option<String>,
    pub is_alias: bool,
    /// Bytes of the text, without tag and anchor. Of a literal or folded scalar, from the content's
    /// first line to the start of the line after it.
    pub place: Range<usize>,
    /// Nodes in it, aliases followed.
    size: usize,
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Scalar {
        text: String,
        style: ScalarStyle,
    },
    Sequence {
        items: Vec<Node>,
        flow: bool,
    },
    Mapping {
        pairs: Vec<(Node, Node)>,
        flow: bool,
    },
}

/// Nodes are equal when they mean the same, wherever they are and whatever they look like.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&*self.content, &*other.content) {
            (
                Content::Scalar { text, .. },
                Content::Scalar {
                    text: other_text, ..
                },
            ) => {
                let both_null = self.is_null() && other.is_null();
                both_null || text == other_text && self.is_word() == other.is_word()
            }
            (Content::Sequence { items, .. }, Content::Sequence { items: others, .. }) => {
                items == others
            }
            (Content::Mapping { pairs, .. }, Content::Mapping { pairs: others, .. }) => {
                pairs == others
            }
            _ => false,
        };
        same && self.tag == other.tag
    }
}

impl Node {
    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &*self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether some reader may take it for something other than a string: a plain scalar without a
    /// tag, of the few characters that a number, a date or a word with a meaning may have.
    pub(super) fn is_word(&self) -> bool {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+:~<=".contains(c);
        match &*self.content {
            Content::Scalar {
                text,
                style: ScalarStyle::Plain,
            } => self.tag.is_none() && text.chars().all(is_allowed),
            _ => false,
        }
    }

    /// Whether it is a scalar that stands for nothing.
    pub(super) fn is_null(&self) -> bool {
        self.is_word() && matches!(self.text(), Some("" | "~" | "null" | "Null" | "NULL"))
    }

    pub(super) fn is_flow(&self) -> bool {
        matches!(
            &*self.content,
            Content::Sequence { flow: true, .. } | Content::Mapping { flow: true, .. }
        )
    }

    /// The last scalar of it, if it ends with one.
    fn last(&self) -> &Self {
        match &*self.content {
            Content::Sequence { items, flow: false } if !self.is_alias => {
                items.last().map_or(self, Self::last)
            }
            Content::Mapping { pairs, flow: false } if !self.is_alias => {
                pairs.last().map_or(self, |(_, value)| value.last())
            }
            _ => self,
        }
    }

    /// Whether its last line belongs to a literal or folded scalar.
    pub(super) fn ends_in_block_scalar(&self) -> bool {
        let last = self.last();
        let style = match &*last.content {
            Content::Scalar { style, .. } => *style,
            _ => return false,
        };
        !last.is_alias && matches!(style, ScalarStyle::Literal | ScalarStyle::Folded)
    }

    /// The value of a mapping's key, and the index of the pair that it was found in: the last one
    /// counts, and a merge key's are taken where it stands, as client-go does.
    pub(super) fn get(&self, key: &str) -> Option<(&Self, Option<usize>)> {
        let mut fields = self.fields().into_iter();
        fields
            .rfind(|(name, ..)| *name == key)
            .map(|(_, value, index)| (value, index))
    }

    /// Keys of a mapping with their values and, but for merged ones, the index of the pair. A key
    /// may come several times.
    pub(super) fn fields(&self) -> Vec<(&str, &Self, Option<usize>)> {
        let Content::Mapping { pairs, .. } = &*self.content else {
            return Vec::new();
        };
        let mut fields = Vec::new();
        for (index, (key, value)) in pairs.iter().enumerate() {
            if key.is_merge() {
                let merged = match &*value.content {
                    // The first one counts most.
                    Content::Sequence { items, .. } => items.iter().rev().collect(),
                    _ => vec![value],
                };
                let merged = merged.into_iter().flat_map(Self::fields);
                fields.extend(merged.map(|(key, value, _)| (key, value, None)));
            } else if let Some(name) = key.text() {
                fields.push((name, value, Some(index)));
            }
        }
        fields
    }

    fn is_merge(&self) -> bool {
        let is_tagged = self.tag.as_deref() == Some("tag:yaml.org,2002:merge");
        self.text() == Some("<<") && (self.is_word() || is_tagged)
    }
}

/// Reads the first document of a text, which is all that client-go reads. `None` when there is none.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Problem> {
    // As libyaml, which client-go's parser is a translation of.
    let options = granit_parser::options! {
        bom_inside_document_as_content: true,
        block_scalar_eof_without_line_feed: true,
        emit_comments: false,
    };
    let mut reader = Reader {
        text,
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
    };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(None),
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (event, span) => {
                let root = reader.node(event, span)?;
                return if root.size > MOST_NODES {
                    Err(Problem::Shape("its aliases expand without end"))
                } else {
                    Ok(Some(root))
                };
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Range<usize>), Problem> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, bytes(&span))),
            Some(Err(error)) => Err(error.into()),
            None => Ok((Event::StreamEnd, self.text.len()..self.text.len())),
        }
    }

    fn node(&mut self, event: Event<'a>, mut place: Range<usize>) -> Result<Node, Problem> {
        let (content, anchor, tag, end, size) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // A plain scalar that is not there is called `~`.
                let text = if place.is_empty() && style == ScalarStyle::Plain {
                    String::new()
                } else {
                    text.into_owned()
                };
                if place.is_empty() && self.text[place.end..].starts_with(':') {
                    // One that is not there is said to be before its key's colon.
                    place = place.end + 1..place.end + 1;
                } else if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    // It is said to end where the next line's text starts.
                    let line = lines::start(self.text, place.end);
                    if self.text[line..place.end].bytes().all(|byte| byte == b' ') {
                        place = place.start.min(line)..line;
                    }
                }
                (Content::Scalar { text, style }, anchor, tag, place.end, 1)
            }
            Event::SequenceStart(style, anchor, tag) => {
                let (mut items, mut size) = (Vec::new(), 1_usize);
                let end = loop {
                    match self.next()? {
                        (Event::SequenceEnd, place) => break place.end,
                        (event, place) => {
                            let item = self.node(event, place)?;
                            size = size.saturating_add(item.size);
                            items.push(item);
                        }
                    }
                };
                let flow = style == StructureStyle::Flow;
                let end = match items.last() {
                    Some(last) if !flow => last.place.end,
                    _ => end,
                };
                (Content::Sequence { items, flow }, anchor, tag, end, size)
            }
            Event::MappingStart(style, anchor, tag) => {
                let (mut pairs, mut size) = (Vec::new(), 1_usize);
                let end = loop {
                    match self.next()? {
                        (Event::MappingEnd, place) => break place.end,
                        (event, place) => {
                            let key = self.node(event, place)?;
                            let (event, place) = self.next()?;
                            let value = self.node(event, place)?;
                            size = size.saturating_add(key.size).saturating_add(value.size);
                            pairs.push((key, value));
                        }
                    }
                };
                let flow = style == StructureStyle::Flow;
                let end = match pairs.last() {
                    Some((_, last)) if !flow => last.place.end,
                    _ => end,
                };
                (Content::Mapping { pairs, flow }, anchor, tag, end, size)
            }
            Event::Alias(anchor) => {
                let target = self.anchors.get(&anchor);
                let target = target.ok_or(Problem::Shape("an anchor's value contains itself"))?;
                return Ok(Node {
                    is_alias: true,
                    place,
                    ..target.clone()
                });
            }
            _ => return Err(Problem::Shape("it ends in the middle of a document")),
        };
        let node = Node {
            content: Rc::new(content),
            tag: tag.as_deref().map(full_tag),
            is_alias: false,
            place: place.start..end,
            size,
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn full_tag(tag: &Tag) -> String {
    format!("{}{}", tag.handle(), tag.suffix())
}

fn bytes(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or_default()
}

impl From<ScanError> for Problem {
    fn from(error: ScanError) -> Self {
        Self::Syntax(Box::new(error))
    }
}
