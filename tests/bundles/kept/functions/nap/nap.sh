sleep 60
cat
