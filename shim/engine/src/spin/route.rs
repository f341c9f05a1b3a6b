//! Which component answers a request.

use crate::config::SpinRoute;

/// The routes of an application.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
    base: String,
}

#[derive(Debug)]
struct Route {
    component: usize,
    segments: Vec<Segment>,
    /// It ends in `/...`.
    wildcard: bool,
    raw: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
}

/// Why a route is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route {route:?} {reason}")]
pub struct RouteError {
    route: String,
    reason: &'static str,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The component's index.
    pub component: usize,
    /// Headers that say how it was reached, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Routes {
    /// `base` is what all routes begin with.
    ///
    /// # Errors
    /// When a route cannot be understood.
    pub fn new(base: &str, routes: &[SpinRoute]) -> Result<Self, RouteError> {
        let base = format!("/{}", base.trim_matches('/'));
        let routes = routes
            .iter()
            .map(|route| Route::parse(&base, route))
            .collect::<Result<_, _>>()?;
        Ok(Self { routes, base })
    }

    /// The most specific route that fits `path`: segment by segment, text comes
    /// before a parameter, and a parameter before the rest. Of two alike it is the
    /// last.
    pub fn find(&self, path: &str) -> Option<Target> {
        let segments: Vec<_> = segments(path).collect();
        let mut best: Option<&Route> = None;
        for route in self.routes.iter().filter(|route| route.fits(&segments)) {
            if best.is_none_or(|best| route.rank().le(best.rank())) {
                best = Some(route);
            }
        }
        let route = best?;
        Some(Target {
            component: route.component,
            headers: self.headers(route, path, &segments),
        })
    }

    fn headers(&self, route: &Route, path: &str, segments: &[&str]) -> Vec<(String, String)> {
        let raw = route.raw.as_str();
        let matched = match self.base.as_str() {
            "/" => raw.to_owned(),
            base => format!("{base}{}", raw.strip_suffix('/').unwrap_or(raw)),
        };
        let mut headers = vec![
            (
                "spin-path-info".to_owned(),
                path_info(route, path, segments),
            ),
            ("spin-matched-route".to_owned(), matched),
            ("spin-raw-component-route".to_owned(), raw.to_owned()),
            (
                "spin-component-route".to_owned(),
                raw.strip_suffix("/...").unwrap_or(raw).to_owned(),
            ),
            ("spin-base-path".to_owned(), self.base.clone()),
        ];
        for (segment, value) in route.segments.iter().zip(segments) {
            if let Segment::Parameter(name) = segment {
                let header = format!("spin-path-match-{}", name.to_ascii_lowercase());
                headers.push((header, (*value).to_owned()));
            }
        }
        headers
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/').filter(|s| !s.is_empty())
}

/// What `/...` stands for.
fn path_info(route: &Route, path: &str, segments: &[&str]) -> String {
    if !route.wildcard {
        return String::new();
    }
    let mut info: String = segments[route.segments.len()..]
        .iter()
        .flat_map(|segment| ["/", segment])
        .collect();
    if path.ends_with('/') {
        info.push('/');
    }
    info
}

impl Route {
    fn parse(base: &str, route: &SpinRoute) -> Result<Self, RouteError> {
        let raw = match route.route.strip_prefix('/') {
            Some(_) => route.route.clone(),
            None => format!("/{}", route.route),
        };
        let wrong = |reason| RouteError {
            route: route.route.clone(),
            reason,
        };
        // Both go into headers.
        let printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !printable(&raw) || !printable(base) {
            return Err(wrong("has a character that paths do not have"));
        }
        let (fixed, wildcard) = match raw.strip_suffix("/...") {
            Some(fixed) => (fixed, true),
            None => (raw.as_str(), false),
        };
        let segment = |segment: &str| match segment.strip_prefix(':') {
            None if segment == "..." || segment.starts_with('*') => {
                Err(wrong("has a wildcard that is not at its end as /..."))
            }
            None => Ok(Segment::Literal(segment.to_owned())),
            Some(name) => {
                let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if name.is_empty() || !name.bytes().all(letter) {
                    return Err(wrong("has a parameter without a proper name"));
                }
                Ok(Segment::Parameter(name.to_owned()))
            }
        };
        let base = segments(base).map(|text| Ok(Segment::Literal(text.to_owned())));
        Ok(Self {
            component: route.component,
            segments: base
                .chain(segments(fixed).map(segment))
                .collect::<Result<_, _>>()?,
            wildcard,
            raw,
        })
    }

    fn fits(&self, segments: &[&str]) -> bool {
        let length = self.segments.len();
        (segments.len() == length || self.wildcard && segments.len() > length)
            && self.segments.iter().zip(segments).all(|(mine, theirs)| {
                matches!(mine, Segment::Parameter(_))
                    || matches!(mine, Segment::Literal(text) if text == theirs)
            })
    }

    fn rank(&self) -> impl Iterator<Item = u8> {
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Literal(_) => 0,
            Segment::Parameter(_) => 1,
        });
        segments.chain([if self.wildcard { 2 } else { 0 }])
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn routes(base: &str, routes: &[&str]) -> Result<Routes, RouteError> {
        let routes: Vec<_> = routes
            .iter()
            .enumerate()
            .map(|(component, route)| SpinRoute {
                route: (*route).to_owned(),
                component,
            })
            .collect();
        Routes::new(base, &routes)
    }

    const ALL: [&str; 8] = [
        "/",
        "/hello",
        "/hello/...",
        "/hello/:name",
        "/hello/:name/edit",
        "/hello/world",
        "/:any/...",
        "/a/b/...",
    ];

    #[rstest]
    #[case("/", Some(0))]
    #[case("/hello", Some(1))]
    #[case("/hello/", Some(1))]
    #[case("/hello/you", Some(3))]
    #[case("/hello/you/edit", Some(4))]
    #[case("/hello/you/read", Some(2))]
    #[case("/hello/world", Some(5))]
    #[case("/hello/world/more", Some(2))]
    #[case("/a/b", Some(7))]
    #[case("/a/b/c", Some(7))]
    #[case("/a", Some(6))]
    fn the_most_specific_route_wins(#[case] path: &str, #[case] component: Option<usize>) {
        let found = routes("/", &ALL).unwrap().find(path);
        assert_eq!(found.map(|target| target.component), component);
    }

    #[test]
    fn what_fits_no_route_goes_nowhere() {
        let routes = routes("/base", &["/a", "/b/..."]).unwrap();
        for path in ["/", "/base", "/a", "/base/a/b", "/b/c", "/basea"] {
            assert_eq!(routes.find(path), None, "{path}");
        }
        assert_eq!(routes.find("/base/a").unwrap().component, 0);
    }

    #[test]
    fn of_two_alike_the_last_wins() {
        let routes = routes("/", &["/:a", "/:b"]).unwrap();
        assert_eq!(routes.find("/x").unwrap().component, 1);
    }

    fn header(base: &str, route: &str, path: &str, name: &str) -> Option<String> {
        let target = routes(base, &[route]).unwrap().find(path).unwrap();
        let found = target
            .headers
            .into_iter()
            .find(|(header, _)| header == name);
        found.map(|(_, value)| value)
    }

    // The values of Spin's own documentation, for the base /shop.
    #[rstest]
    #[case("spin-path-info", "/1/edit")]
    #[case("spin-matched-route", "/shop/users/...")]
    #[case("spin-raw-component-route", "/users/...")]
    #[case("spin-component-route", "/users")]
    #[case("spin-base-path", "/shop")]
    fn headers_tell_how_it_was_reached(#[case] name: &str, #[case] value: &str) {
        let found = header("/shop", "/users/...", "/shop/users/1/edit", name);
        assert_eq!(found.as_deref(), Some(value));
    }

    #[rstest]
    #[case("/foo/...", "/foo", "")]
    #[case("/foo/...", "/foo/", "/")]
    #[case("/foo/...", "/foo/bar", "/bar")]
    #[case("/foo/...", "/foo/bar/", "/bar/")]
    #[case("/foo", "/foo", "")]
    #[case("/...", "/", "/")]
    fn path_info_is_what_the_wildcard_stands_for(
        #[case] route: &str,
        #[case] path: &str,
        #[case] info: &str,
    ) {
        let found = header("/", route, path, "spin-path-info");
        assert_eq!(found.as_deref(), Some(info));
    }

    #[test]
    fn a_parameter_is_a_header() {
        let found = header("/", "/u/:UserId/x", "/u/%41b/x", "spin-path-match-userid");
        assert_eq!(found.as_deref(), Some("%41b"));
    }

    #[rstest]
    #[case("/a/.../b")]
    #[case("/a/*")]
    #[case("/:")]
    #[case("/:a b")]
    #[case("/\r\nx: y")]
    fn refuses(#[case] route: &str) {
        assert!(routes("/", &[route]).is_err());
    }
}
