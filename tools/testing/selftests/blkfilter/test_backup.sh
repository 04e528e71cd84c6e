# SPDX-License-Identifier: GPL-2.0
#
# Sourced by the tests of backup.py.

# generation <device> <name>: what changetrack says.
generation() {
	awk -v name="$2" '$1 == name { print $2 }' /sys/kernel/debug/changetrack/"$1"/generation
}

# same <device> <image>: that is what is on the device.
is_copy() {
	dd if=/dev/"$1" bs=1M iflag=direct status=none | cmp - "$2"
}

# backup <arguments>...: runs it.  Its status is in status, its output in $TMP/said.
backup() {
	timeout $((120 * ${SLOW:-1})) "$DIR"/backup.py "$@" > "$TMP/said" 2>&1
	status=$?
	sed 's/^/# /' "$TMP/said" >&3
	return $status
}
exec 3>&1

copied_all() {
	[[ $(grep -h copied "$TMP/said") =~ copied\ ([0-9]+)\ of\ ([0-9]+) ]] &&
		[ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]
}
