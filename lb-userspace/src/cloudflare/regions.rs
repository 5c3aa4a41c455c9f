//! Cloudflare's regions and the countries in them: of the USA and Canada, which lie in two regions, their parts.
//!
//! Codes are of ISO 3166-1 alpha-2 and ISO 3166-2. Cloudflare publishes the regions and not all borders between them; where
//! it does not, the United Nations' geographical regions decide.

use serde::Serialize;
use utoipa::ToSchema;

/// `GET regions`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Regions {
    pub iso_standard: &'static str,
    pub regions: Vec<Region>,
}

/// One region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Region {
    pub region_code: &'static str,
    pub countries: Vec<Country>,
}

/// A country, or the part of it that lies in the region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Country {
    pub country_code_a2: &'static str,
    pub country_name: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub country_subdivisions: Vec<Subdivision>,
}

/// A state or province.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Subdivision {
    pub subdivision_code_a2: &'static str,
    pub subdivision_name: &'static str,
}

/// Codes, and what they stand for.
pub const REGIONS: [(&str, &str); 13] = [
    ("WNAM", "Western North America"),
    ("ENAM", "Eastern North America"),
    ("WEU", "Western Europe"),
    ("EEU", "Eastern Europe"),
    ("NSAM", "Northern South America"),
    ("SSAM", "Southern South America"),
    ("OC", "Oceania"),
    ("ME", "Middle East"),
    ("NAF", "Northern Africa"),
    ("SAF", "Southern Africa"),
    ("SAS", "Southern Asia"),
    ("SEAS", "Southeast Asia"),
    ("NEAS", "Northeast Asia"),
];

/// The countries of a region, one after another.
fn countries(region: &str) -> &'static str {
    match region {
        "WNAM" => "CA Canada;MX Mexico;US United States",
        "ENAM" => {
            "AG Antigua and Barbuda;AI Anguilla;AW Aruba;BB Barbados;BL Saint Barthélemy;BM Bermuda;BQ Bonaire, Sint \
             Eustatius and Saba;BS Bahamas;BZ Belize;CA Canada;CR Costa Rica;CU Cuba;CW Curaçao;DM Dominica;DO Dominican \
             Republic;GD Grenada;GL Greenland;GP Guadeloupe;GT Guatemala;HN Honduras;HT Haiti;JM Jamaica;KN Saint Kitts \
             and Nevis;KY Cayman Islands;LC Saint Lucia;MF Saint Martin;MQ Martinique;MS Montserrat;NI Nicaragua;PA \
             Panama;PM Saint Pierre and Miquelon;PR Puerto Rico;SV El Salvador;SX Sint Maarten;TC Turks and Caicos \
             Islands;TT Trinidad and Tobago;US United States;VC Saint Vincent and the Grenadines;VG British Virgin \
             Islands;VI U.S. Virgin Islands"
        }
        "WEU" => {
            "AD Andorra;AT Austria;AX Åland Islands;BE Belgium;CH Switzerland;DE Germany;DK Denmark;ES Spain;FI \
             Finland;FO Faroe Islands;FR France;GB United Kingdom;GG Guernsey;GI Gibraltar;GR Greece;IE Ireland;IM Isle \
             of Man;IS Iceland;IT Italy;JE Jersey;LI Liechtenstein;LU Luxembourg;MC Monaco;MT Malta;NL Netherlands;NO \
             Norway;PT Portugal;SE Sweden;SJ Svalbard and Jan Mayen;SM San Marino;VA Holy See"
        }
        "EEU" => {
            "AL Albania;BA Bosnia and Herzegovina;BG Bulgaria;BY Belarus;CZ Czechia;EE Estonia;HR Croatia;HU Hungary;LT \
             Lithuania;LV Latvia;MD Moldova;ME Montenegro;MK North Macedonia;PL Poland;RO Romania;RS Serbia;RU Russia;SI \
             Slovenia;SK Slovakia;UA Ukraine;XK Kosovo"
        }
        "NSAM" => {
            "BO Bolivia;BR Brazil;CO Colombia;EC Ecuador;GF French Guiana;GY Guyana;PE Peru;SR Suriname;VE Venezuela"
        }
        "SSAM" => {
            "AR Argentina;BV Bouvet Island;CL Chile;FK Falkland Islands;GS South Georgia and the South Sandwich \
             Islands;PY Paraguay;UY Uruguay"
        }
        "OC" => {
            "AQ Antarctica;AS American Samoa;AU Australia;CC Cocos (Keeling) Islands;CK Cook Islands;CX Christmas \
             Island;FJ Fiji;FM Micronesia;GU Guam;HM Heard Island and McDonald Islands;KI Kiribati;MH Marshall \
             Islands;MP Northern Mariana Islands;NC New Caledonia;NF Norfolk Island;NR Nauru;NU Niue;NZ New Zealand;PF \
             French Polynesia;PG Papua New Guinea;PN Pitcairn;PW Palau;SB Solomon Islands;TK Tokelau;TO Tonga;TV \
             Tuvalu;UM United States Minor Outlying Islands;VU Vanuatu;WF Wallis and Futuna;WS Samoa"
        }
        "ME" => {
            "AE United Arab Emirates;AM Armenia;AZ Azerbaijan;BH Bahrain;CY Cyprus;GE Georgia;IL Israel;IQ Iraq;IR \
             Iran;JO Jordan;KW Kuwait;LB Lebanon;OM Oman;PS Palestine;QA Qatar;SA Saudi Arabia;SY Syria;TR Türkiye;YE \
             Yemen"
        }
        "NAF" => {
            "BF Burkina Faso;BJ Benin;CF Central African Republic;CI Côte d'Ivoire;CM Cameroon;CV Cabo Verde;DJ \
             Djibouti;DZ Algeria;EG Egypt;EH Western Sahara;ER Eritrea;ET Ethiopia;GH Ghana;GM Gambia;GN Guinea;GQ \
             Equatorial Guinea;GW Guinea-Bissau;LR Liberia;LY Libya;MA Morocco;ML Mali;MR Mauritania;NE Niger;NG \
             Nigeria;SD Sudan;SL Sierra Leone;SN Senegal;SO Somalia;SS South Sudan;ST Sao Tome and Principe;TD Chad;TG \
             Togo;TN Tunisia"
        }
        "SAF" => {
            "AO Angola;BI Burundi;BW Botswana;CD Democratic Republic of the Congo;CG Congo;GA Gabon;KE Kenya;KM \
             Comoros;LS Lesotho;MG Madagascar;MU Mauritius;MW Malawi;MZ Mozambique;NA Namibia;RE Réunion;RW Rwanda;SC \
             Seychelles;SH Saint Helena, Ascension and Tristan da Cunha;SZ Eswatini;TF French Southern Territories;TZ \
             Tanzania;UG Uganda;YT Mayotte;ZA South Africa;ZM Zambia;ZW Zimbabwe"
        }
        "SAS" => {
            "AF Afghanistan;BD Bangladesh;BT Bhutan;IN India;IO British Indian Ocean Territory;KG Kyrgyzstan;KZ \
             Kazakhstan;LK Sri Lanka;MV Maldives;NP Nepal;PK Pakistan;TJ Tajikistan;TM Turkmenistan;UZ Uzbekistan"
        }
        "SEAS" => {
            "BN Brunei;ID Indonesia;KH Cambodia;LA Laos;MM Myanmar;MY Malaysia;PH Philippines;SG Singapore;TH \
             Thailand;TL Timor-Leste;VN Vietnam"
        }
        "NEAS" => {
            "CN China;HK Hong Kong;JP Japan;KP North Korea;KR South Korea;MN Mongolia;MO Macao;TW Taiwan"
        }
        _ => "",
    }
}

/// The parts of a country that lie in a region.
fn subdivisions(region: &str, country: &str) -> &'static str {
    match (region, country) {
        ("WNAM", "US") => {
            "AK Alaska;AZ Arizona;CA California;CO Colorado;HI Hawaii;ID Idaho;MT Montana;NM New Mexico;NV Nevada;OR \
             Oregon;TX Texas;UT Utah;WA Washington;WY Wyoming"
        }
        ("ENAM", "US") => {
            "AL Alabama;AR Arkansas;CT Connecticut;DC District of Columbia;DE Delaware;FL Florida;GA Georgia;IA Iowa;IL \
             Illinois;IN Indiana;KS Kansas;KY Kentucky;LA Louisiana;MA Massachusetts;MD Maryland;ME Maine;MI Michigan;MN \
             Minnesota;MO Missouri;MS Mississippi;NC North Carolina;ND North Dakota;NE Nebraska;NH New Hampshire;NJ New \
             Jersey;NY New York;OH Ohio;OK Oklahoma;PA Pennsylvania;RI Rhode Island;SC South Carolina;SD South Dakota;TN \
             Tennessee;VA Virginia;VT Vermont;WI Wisconsin;WV West Virginia"
        }
        ("WNAM", "CA") => "AB Alberta;BC British Columbia;NT Northwest Territories;SK Saskatchewan;YT Yukon",
        ("ENAM", "CA") => {
            "MB Manitoba;NB New Brunswick;NL Newfoundland and Labrador;NS Nova Scotia;NU Nunavut;ON Ontario;PE Prince \
             Edward Island;QC Quebec"
        }
        _ => "",
    }
}

fn pairs(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    text.split(';').filter_map(|pair| pair.split_once(' '))
}

/// All regions.
#[must_use]
pub fn regions() -> Regions {
    let country = |region: &str, (code, name): (&'static str, &'static str)| Country {
        country_code_a2: code,
        country_name: name,
        country_subdivisions: pairs(subdivisions(region, code))
            .map(|(code, name)| Subdivision {
                subdivision_code_a2: code,
                subdivision_name: name,
            })
            .collect(),
    };
    Regions {
        iso_standard: "Country and subdivision codes follow ISO 3166-1 alpha-2 and ISO 3166-2",
        regions: REGIONS
            .into_iter()
            .map(|(code, _)| Region {
                region_code: code,
                countries: pairs(countries(code)).map(|pair| country(code, pair)).collect(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_country_is_in_one_region_but_two_that_are_in_parts() {
        let all = regions();
        let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for region in &all.regions {
            for country in &region.countries {
                assert_eq!(country.country_code_a2.len(), 2);
                seen.entry(country.country_code_a2)
                    .or_default()
                    .push(region.region_code);
            }
        }
        let several: Vec<_> = seen.iter().filter(|(_, regions)| regions.len() > 1).collect();
        assert_eq!(
            several.iter().map(|(country, _)| **country).collect::<Vec<_>>(),
            ["CA", "US"]
        );
        // ISO 3166-1 has 249 codes; XK is none of them.
        assert_eq!(seen.len(), 250);
        let states = |code: &str| {
            let countries = all.regions.iter().flat_map(|region| &region.countries);
            let parts = countries.filter(|country| country.country_code_a2 == code);
            parts
                .map(|country| country.country_subdivisions.len())
                .sum::<usize>()
        };
        assert_eq!((states("US"), states("CA"), states("DE")), (51, 13, 0));
    }
}
