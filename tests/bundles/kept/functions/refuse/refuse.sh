echo "no such luck" >&2
exit 1
