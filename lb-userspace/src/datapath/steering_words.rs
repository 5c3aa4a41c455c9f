//! Why a load balancer steers as it does, in words.

use lb_common::abi::Country;
use lb_core::view::View;

/// What an application's load balancer does with the flows of a client's country, pool by pool; nothing without a load
/// balancer.
pub fn steering_words(view: &View, application: u32, country: Option<Country>) -> Vec<String> {
    let mut applications = view.applications.iter();
    let name = applications
        .find(|known| known.id == application)
        .and_then(|known| known.load_balancer.as_ref());
    let Some(balancer) = view
        .load_balancers
        .iter()
        .find(|balancer| Some(&balancer.name) == name)
    else {
        return Vec::new();
    };
    let country = country.unwrap_or(Country::UNKNOWN);
    let mut routes = balancer.routes.iter();
    let own = routes.find(|route| route.countries.contains(&country));
    let Some(route) = own.or(balancer.routes.first()) else {
        return Vec::new();
    };
    let mut words = vec![format!(
        "load balancer {} divides flows by {} among {}",
        balancer.name, route.steering_policy, route.source
    )];
    for pool in &route.pools {
        words.push(format!(
            "{} gets {:.1} %: {}",
            pool.name,
            pool.share * 100.0,
            pool.why
        ));
    }
    if let Some(fallback) = &route.fallback_pool
        && !route.pools.iter().any(|pool| pool.name == *fallback)
    {
        words.push(format!("{fallback} is the fallback pool"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::health::GroupHealth;
    use lb_core::view::{ApplicationView, LoadBalancerView, RouteView, RoutedPool};

    #[test]
    fn the_route_of_the_clients_country_is_told() {
        let route = |countries: &[Country], source: &str, pool: &str| RouteView {
            countries: countries.to_vec(),
            source: source.to_owned(),
            steering_policy: "off",
            pools: vec![RoutedPool {
                name: pool.to_owned(),
                share: 1.0,
                why: "usable".to_owned(),
            }],
            fallback_pool: Some("sorry".to_owned()),
            on_fallback: false,
        };
        let (de, fr) = (Country::new(*b"DE"), Country::new(*b"FR"));
        let view = View {
            applications: vec![ApplicationView {
                name: "web".to_owned(),
                id: 7,
                protocol: "tcp/80".to_owned(),
                addresses: Vec::new(),
                load_balancer: Some("lb".to_owned()),
                pool: None,
                on_fallback: false,
            }],
            load_balancers: vec![LoadBalancerView {
                name: "lb".to_owned(),
                health: GroupHealth::Healthy,
                awaits_results: false,
                steering_policy: "geo",
                pool_shares: Vec::new(),
                on_fallback: false,
                routes: vec![
                    route(&[], "default_pools", "eu"),
                    route(&[de], "country_pools.DE", "de"),
                ],
            }],
            ..View::default()
        };
        for (country, source, pool) in [
            (Some(de), "country_pools.DE", "de"),
            (Some(fr), "default_pools", "eu"),
            (None, "default_pools", "eu"),
        ] {
            let expected = [
                format!("load balancer lb divides flows by off among {source}"),
                format!("{pool} gets 100.0 %: usable"),
                "sorry is the fallback pool".to_owned(),
            ];
            assert_eq!(steering_words(&view, 7, country), expected);
        }
        assert!(steering_words(&view, 8, None).is_empty());
    }
}
