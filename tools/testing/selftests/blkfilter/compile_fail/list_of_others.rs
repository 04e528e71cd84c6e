// SPDX-License-Identifier: GPL-2.0
//~ E0308: a list is of one kind of filter
fn push(list: &mut BioList<Good>, other: OwnedBio<Other>, good: Owned) {
    let _ = list.push(other); //~ bad
    let _ = list.push(good); //~ good
}
